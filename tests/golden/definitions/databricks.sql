-- The tables that caspr-spark publishes, written by `caspr-spark export databricks`; to be run once, before the first publish.
-- Keys are not enforced here. Two models may have vectors of one customer and as_of: filter by
-- model_version before a point-in-time lookup where more than one model was published.

CREATE TABLE IF NOT EXISTS `main`.`features`.`customer_embedding_history` (
  `customer_id` STRING NOT NULL COMMENT 'the entity, exactly as in the raw tables',
  `embedding` ARRAY<FLOAT> NOT NULL COMMENT 'the customer\'s vector',
  `as_of` TIMESTAMP NOT NULL COMMENT 'only events strictly before this time (UTC) were seen',
  `last_event_time` TIMESTAMP NOT NULL COMMENT 'newest event seen (UTC)',
  `num_events` INT NOT NULL COMMENT 'events seen, at most `sequences.max_events`',
  `model_version` STRING NOT NULL COMMENT 'content hash of the checkpoint',
  `run_id` STRING NOT NULL COMMENT 'as_of, model_version and a hash of the inputs: equal inputs give an equal run_id',
  CONSTRAINT `customer_embedding_history_pk` PRIMARY KEY (`customer_id`, `as_of` TIMESERIES)
)
USING DELTA
COMMENT 'every published vector of every customer: one row a customer and run'
LOCATION '/data/bob\'s "shop" \\ `x` {y}/customer_embedding_history'
TBLPROPERTIES (
  'delta.minReaderVersion' = '1',
  'delta.minWriterVersion' = '4',
  'delta.enableChangeDataFeed' = 'true',
  'delta.enableDeletionVectors' = 'false'
);

CREATE TABLE IF NOT EXISTS `main`.`features`.`customer_embeddings` (
  `customer_id` STRING NOT NULL COMMENT 'the entity, exactly as in the raw tables',
  `embedding` ARRAY<FLOAT> NOT NULL COMMENT 'the customer\'s vector',
  `as_of` TIMESTAMP NOT NULL COMMENT 'only events strictly before this time (UTC) were seen',
  `last_event_time` TIMESTAMP NOT NULL COMMENT 'newest event seen (UTC)',
  `num_events` INT NOT NULL COMMENT 'events seen, at most `sequences.max_events`',
  `model_version` STRING NOT NULL COMMENT 'content hash of the checkpoint',
  `run_id` STRING NOT NULL COMMENT 'as_of, model_version and a hash of the inputs: equal inputs give an equal run_id',
  CONSTRAINT `customer_embeddings_pk` PRIMARY KEY (`customer_id`)
)
USING DELTA
COMMENT 'the latest vector of every customer by the champion model: one row a customer'
LOCATION '/data/bob\'s "shop" \\ `x` {y}/customer_embeddings'
TBLPROPERTIES (
  'delta.minReaderVersion' = '1',
  'delta.minWriterVersion' = '4',
  'delta.enableChangeDataFeed' = 'true',
  'delta.enableDeletionVectors' = 'false'
);
