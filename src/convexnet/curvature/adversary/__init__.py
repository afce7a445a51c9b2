"""The adversary of the certificate: `falsify` searches for chords that lie below the function."""
