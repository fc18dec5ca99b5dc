"""A step of the optimizer: torch's AdamW, and of tables the rows alone that were met."""

import torch

from caspr_spark.pretrain.weights import FlatWeights, adam_step


def test_a_step_is_that_of_torchs_adamw_with_a_rate_a_group() -> None:
    torch.manual_seed(1)
    ours = [torch.nn.Parameter(torch.randn(3, 4)), torch.nn.Parameter(torch.randn(5))]
    theirs = [torch.nn.Parameter(parameter.detach().clone()) for parameter in ours]
    flat = FlatWeights([[ours[0]], [ours[1]]], num_extra=2)
    moments = (torch.zeros(17), torch.zeros(17))
    optimizer = torch.optim.AdamW(
        [{"params": [theirs[0]], "lr": 0.01}, {"params": [theirs[1]], "lr": 0.002}], weight_decay=0.1
    )
    for num_steps in range(5):
        gradients = [torch.randn_like(parameter) for parameter in theirs]
        flat.clear()
        flat.add(gradients)
        adam_step(flat, moments, [0.01, 0.002], num_steps=num_steps, weight_decay=0.1)
        for parameter, gradient in zip(theirs, gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()

    torch.testing.assert_close(ours, theirs)


def test_a_row_that_is_met_at_every_step_moves_as_adamw_moves_it_and_others_stay() -> None:
    torch.manual_seed(2)
    dense, table = torch.nn.Parameter(torch.randn(3)), torch.nn.Parameter(torch.randn(50, 4))
    before, theirs = table.detach().clone(), torch.nn.Parameter(table.detach().clone())
    flat = FlatWeights([[table], [dense]], num_extra=0, tables=[table])
    moments = (torch.zeros(203), torch.zeros(203))
    optimizer = torch.optim.AdamW([theirs], lr=0.01, weight_decay=0.1)
    met = torch.tensor([7, 31, 7])
    for num_steps in range(4):
        flat.clear()
        theirs.grad = torch.zeros(50, 4)
        for _ in range(2):  # chunks
            values = torch.randn(3, 4)
            theirs.grad.index_add_(0, met, values)
            flat.add([torch.zeros(3), torch.sparse_coo_tensor(met[None], values, (50, 4))])
        flat.sum_rows(lambda tensor: None)
        torch.testing.assert_close(flat.norm(), theirs.grad.norm())
        adam_step(flat, moments, [0.01, 0.5], num_steps=num_steps, weight_decay=0.1)
        optimizer.step()

    torch.testing.assert_close(table[[7, 31]], theirs[[7, 31]])
    others = [row for row in range(50) if row not in (7, 31)]
    torch.testing.assert_close(table[others], before[others], rtol=0, atol=0)


def test_no_more_rows_are_kept_than_a_table_has() -> None:
    torch.manual_seed(3)
    table = torch.nn.Parameter(torch.zeros(10, 2))
    flat = FlatWeights([[table]], num_extra=0, tables=[table])
    total = torch.zeros(10, 2)
    for _ in range(9):
        ids, values = torch.randint(10, (6,)), torch.randn(6, 2)
        total.index_add_(0, ids, values)
        flat.add([torch.sparse_coo_tensor(ids[None], values, (10, 2))])
        assert sum(len(gradient._values()) for gradient in flat.found[0]) <= 10
    flat.sum_rows(lambda tensor: None)

    (rows,) = flat.rows
    torch.testing.assert_close(rows.gradient_RX, total[rows.ids_R])
