"""The data plane: router, engines and the contract they share with the operator."""
