"""Stage events: raw tables -> one flat timeline of customer activities, with every raw row accounted for."""
