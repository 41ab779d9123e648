"""How many decisions a second one Router has to give, and how much one ingress passes on."""
