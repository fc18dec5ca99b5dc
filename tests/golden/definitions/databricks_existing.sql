-- The tables that caspr-spark publishes, written by `caspr-spark export databricks`; for tables that were published already.
-- Keys are not enforced here. Two models may have vectors of one customer and as_of: filter by
-- model_version before a point-in-time lookup where more than one model was published.

CREATE TABLE IF NOT EXISTS `main`.`features`.`customer_embedding_history` USING DELTA LOCATION '/data/bob\'s "shop" \\ `x` {y}/customer_embedding_history';
COMMENT ON TABLE `main`.`features`.`customer_embedding_history` IS 'every published vector of every customer: one row a customer and run';
ALTER TABLE `main`.`features`.`customer_embedding_history` ALTER COLUMN `customer_id` COMMENT 'the entity, exactly as in the raw tables';
ALTER TABLE `main`.`features`.`customer_embedding_history` ALTER COLUMN `embedding` COMMENT 'the customer\'s vector';
ALTER TABLE `main`.`features`.`customer_embedding_history` ALTER COLUMN `as_of` COMMENT 'only events strictly before this time (UTC) were seen';
ALTER TABLE `main`.`features`.`customer_embedding_history` ALTER COLUMN `last_event_time` COMMENT 'newest event seen (UTC)';
ALTER TABLE `main`.`features`.`customer_embedding_history` ALTER COLUMN `num_events` COMMENT 'events seen, at most `sequences.max_events`';
ALTER TABLE `main`.`features`.`customer_embedding_history` ALTER COLUMN `model_version` COMMENT 'content hash of the checkpoint';
ALTER TABLE `main`.`features`.`customer_embedding_history` ALTER COLUMN `run_id` COMMENT 'as_of, model_version and a hash of the inputs: equal inputs give an equal run_id';
ALTER TABLE `main`.`features`.`customer_embedding_history` ALTER COLUMN `customer_id` SET NOT NULL;
ALTER TABLE `main`.`features`.`customer_embedding_history` ALTER COLUMN `as_of` SET NOT NULL;
ALTER TABLE `main`.`features`.`customer_embedding_history` ADD CONSTRAINT `customer_embedding_history_pk` PRIMARY KEY (`customer_id`, `as_of` TIMESERIES);

CREATE TABLE IF NOT EXISTS `main`.`features`.`customer_embeddings` USING DELTA LOCATION '/data/bob\'s "shop" \\ `x` {y}/customer_embeddings';
COMMENT ON TABLE `main`.`features`.`customer_embeddings` IS 'the latest vector of every customer by the champion model: one row a customer';
ALTER TABLE `main`.`features`.`customer_embeddings` ALTER COLUMN `customer_id` COMMENT 'the entity, exactly as in the raw tables';
ALTER TABLE `main`.`features`.`customer_embeddings` ALTER COLUMN `embedding` COMMENT 'the customer\'s vector';
ALTER TABLE `main`.`features`.`customer_embeddings` ALTER COLUMN `as_of` COMMENT 'only events strictly before this time (UTC) were seen';
ALTER TABLE `main`.`features`.`customer_embeddings` ALTER COLUMN `last_event_time` COMMENT 'newest event seen (UTC)';
ALTER TABLE `main`.`features`.`customer_embeddings` ALTER COLUMN `num_events` COMMENT 'events seen, at most `sequences.max_events`';
ALTER TABLE `main`.`features`.`customer_embeddings` ALTER COLUMN `model_version` COMMENT 'content hash of the checkpoint';
ALTER TABLE `main`.`features`.`customer_embeddings` ALTER COLUMN `run_id` COMMENT 'as_of, model_version and a hash of the inputs: equal inputs give an equal run_id';
ALTER TABLE `main`.`features`.`customer_embeddings` ALTER COLUMN `customer_id` SET NOT NULL;
ALTER TABLE `main`.`features`.`customer_embeddings` ADD CONSTRAINT `customer_embeddings_pk` PRIMARY KEY (`customer_id`);
