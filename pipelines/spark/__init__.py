"""The steps on Spark: the same pure functions as the embedded engine, run by workers that hold one race or one key each.

Nothing here decides what a feature, a newest row or a picture is. `parcels` carries frames between the workers, and each module
spreads one step: `features`, `joins` (in `feature_repo.stores.offline_spark`), `materialize`, `pictures` and `embeddings`.
"""
