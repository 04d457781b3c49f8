"""The Dagster side: what is declared, checked, automated and shown."""
