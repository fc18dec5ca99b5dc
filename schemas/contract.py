"""What a contract is: a table's name, its columns in order, and the columns that identify a row."""

from dataclasses import dataclass

CATEGORICAL = "string"
NUMERICAL = "double"
SET = "array<string>"


@dataclass(frozen=True)
class Column:
    """One column. `type` is a Spark DDL type; `meaning` is one line and names the unit where there is one."""

    name: str
    type: str
    meaning: str
    nullable: bool = False


@dataclass(frozen=True)
class Contract:
    """One table: where it lies below the data root (`name`), its columns in order, and its keys.

    `key` identifies a row. `time_key` is the column by which an entity's rows follow one another, in a table that holds
    many of each: what was known of the entity at some time is its row with the newest `time_key` at or before it.
    """

    name: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    time_key: str | None = None

    @property
    def column_names(self) -> list[str]:
        return [column.name for column in self.columns]

    @property
    def ddl(self) -> str:
        """The columns as a Spark DDL schema string."""
        return ", ".join(
            f"`{column.name}` {column.type}{'' if column.nullable else ' not null'}" for column in self.columns
        )


def attribute_columns(kinds: dict[str, str]) -> tuple[Column, ...]:
    """Attribute name -> kind (categorical, numerical, set) as typed, nullable columns in the order given."""
    types = {"categorical": CATEGORICAL, "numerical": NUMERICAL, "set": SET}
    return tuple(Column(name, types[kind], f"declared {kind} attribute", nullable=True) for name, kind in kinds.items())
