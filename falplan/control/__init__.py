"""The acting half of the controller: launch, supervise, scale, roll and heal runners."""
