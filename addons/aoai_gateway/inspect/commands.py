class GatewayCommands:
    name="gatewaycommands"
    def __init__(self,g): pass
