"""Which model is the champion, whose vectors readers get, and which the challenger, scored beside it.

<root>/checkpoints/aliases.json is the one place that says so. It is replaced in one rename.
"""

from collections.abc import Callable
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from caspr_spark.errors import CasprError, ConfigError, UnsafeError
from caspr_spark.lease import lease
from caspr_spark.registry import checkpoints_folder, kept_models, replace_text

ALIASES = "aliases.json"
_ALIAS_SECONDS = 60
"""An alias is written in milliseconds; nobody holds the lock for longer."""


class Aliases(BaseModel):
    """aliases.json."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    champion: str | None = None
    """The model whose vectors readers get."""
    challenger: str | None = None
    """The model that is scored beside it."""
    former_champions: tuple[str, ...] = ()
    """Oldest first; a rollback goes back to the last."""

    @property
    def scored(self) -> tuple[str, ...]:
        """The models whose vectors are kept up to date, the champion first."""
        return tuple(version for version in (self.champion, self.challenger) if version is not None)

    def alias_of(self, version: str) -> str:
        """champion, challenger, or empty."""
        return {self.challenger: "challenger", self.champion: "champion"}.get(version, "")


def known_model(root: str | Path, name: str) -> str:
    """The model_version that `name`, a version or an alias, stands for. Raises ConfigError where there is none."""
    aliases, kept = read_aliases(root), kept_models(root)
    version = {"champion": aliases.champion, "challenger": aliases.challenger}.get(name, name)
    if version is None or version not in kept:
        shown = ", ".join(f"{one} ({aliases.alias_of(one)})" if aliases.alias_of(one) else one for one in kept)
        raise ConfigError(f"{checkpoints_folder(root)}: there is no model '{name}'; it has {shown or 'none'}")
    return version


def read_aliases(root: str | Path) -> Aliases:
    """Which models are in use. Raises UnsafeError where the file is damaged."""
    path = checkpoints_folder(root) / ALIASES
    try:
        return Aliases.model_validate_json(path.read_text())
    except FileNotFoundError:
        return Aliases()
    except (ValidationError, UnicodeDecodeError):
        raise UnsafeError(f"{path}: expected champion, challenger and former_champions; restore the file") from None


def champion_of(root: str | Path) -> str:
    """The champion's model_version. Raises CasprError where there is no model yet."""
    champion = read_aliases(root).champion
    if champion is None:
        raise CasprError(f"{checkpoints_folder(root) / ALIASES}: no model yet; run pretrain_model first")
    return champion


def change_aliases(root: str | Path, change: Callable[[Aliases], Aliases]) -> Aliases:
    """Replace aliases.json by what `change` makes of it, in one rename; concurrent changes follow one another."""
    folder = checkpoints_folder(root)
    with lease(str(folder), wait_seconds=_ALIAS_SECONDS):
        changed = change(read_aliases(root))
        replace_text(folder / ALIASES, changed.model_dump_json(indent=1))
    return changed


def with_trained(aliases: Aliases, version: str) -> Aliases:
    """A model that was just trained: the first is the champion, any other the challenger."""
    if aliases.champion is None:
        return Aliases(champion=version)
    return aliases if version == aliases.champion else aliases.model_copy(update={"challenger": version})


def with_champion(aliases: Aliases, version: str) -> Aliases:
    """Another champion; where it was the challenger, the two change places."""
    if aliases.champion is None or version == aliases.champion:
        return aliases.model_copy(update={"champion": version})
    return Aliases(
        champion=version,
        challenger=aliases.champion if version == aliases.challenger else aliases.challenger,
        former_champions=(*aliases.former_champions, aliases.champion),
    )


def rolled_back(aliases: Aliases) -> Aliases:
    """The last switch of champions taken back. Raises ConfigError where there was none."""
    if not aliases.former_champions:
        raise ConfigError("there is no switch to take back: the champion is the first one")
    *earlier, version = aliases.former_champions
    return with_champion(aliases, version).model_copy(update={"former_champions": tuple(earlier)})
