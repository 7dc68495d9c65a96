"""What is wrong, or will be, with a deployment: facts gathered from servers and app, and checks that judge them."""
