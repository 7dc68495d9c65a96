"""The pure floor: values, grammars and encodings that know neither Redis nor Celery."""
