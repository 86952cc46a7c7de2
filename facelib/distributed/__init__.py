"""Several workers that train one network: who they are, how they find each other, how they notice that one is lost."""
