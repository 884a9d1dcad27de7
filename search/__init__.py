"""How a network is trained and chosen. Imports torch and models; never Ray, never MLflow."""
