"""The vault: everything personal on this device, sealed on the disk.

Records come in and go out as bytes, by type and id; what they mean is known by those who call. Any room may call it through `store`; it
knows none of them."""
