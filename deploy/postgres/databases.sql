-- Run once, when the volume is empty: the databases of the Feast registry and of MLflow.
CREATE DATABASE feast;
CREATE DATABASE mlflow;
