"""Questions about composed pictures: made here, with known answers."""
