"""`task_scores`: one row per task, arm, head, split and metric of the evaluation."""

from schemas.contract import Column, Contract

TASK_SCORES = Contract(
    name="task_scores",
    columns=(
        Column("task", "string", "name of the task in the configuration"),
        Column("as_of", "timestamp", "the cut (UTC, exclusive): features before, labels from here on"),
        Column("model_version", "string", "checkpoint of the embeddings"),
        Column(
            "arm",
            "string",
            "rfm, embedding, both (concatenated), fused (averaged, or learnt), rule (naive), ease (values by what else "
            "the customer had); order_shuffled, time_removed, newest_16, newest_64, without_<source>, "
            "profiles_hidden, random_weights: vectors with something taken out; customers: counts of the split",
        ),
        Column(
            "head",
            "string",
            "logistic, ridge, lightgbm, median, or best (chosen on validation); empty for customers",
        ),
        Column("split", "int", "number of the random split of customers"),
        Column(
            "metric",
            "string",
            "auroc, average_precision; rmse, mae, spearman, high_value_auroc; map, precision_at_1, success_at_5, "
            "ndcg_at_3, each _all and _new (values that the customer never had); num_train, num_test, positive_share; "
            "at split 0, bootstrap_error.<metric> and bootstrap_better.<metric>: of the mean difference to rfm over "
            "all splits, over resampled customers; <metric>.100_labels: with so many labelled customers",
        ),
        Column("value", "double", "score on the split's test customers, or of the resampled ones"),
    ),
    key=("task", "as_of", "model_version", "arm", "head", "split", "metric"),
)
