"""The querier service: asks miners, answers users, trains."""
