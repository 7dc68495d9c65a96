"""The live screen of `workerkit top`: what is drawn, what keys do, and the terminal."""
