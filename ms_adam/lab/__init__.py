"""The lab: everything that proves and shows the library. The library never imports it."""
