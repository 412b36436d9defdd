"""What the kernel knows of a process: bpf(2), collectors/*.o, /proc. Standard library only."""
