"""Several workers that train one network: who they are, how they meet, how they notice that one is lost."""
