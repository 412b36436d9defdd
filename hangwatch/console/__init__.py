"""The commands, one file each (click), and `render`: records -> lines. May import everything; imported by nothing."""
