"""bpf(2) spoken directly: an object file in, programs attached and maps to read out. No libbpf, no compiler, standard library only.

    loaded = Collector(load_object(path))   # maps made, nothing attached
    loaded.attach("loop_switch")
    loaded.maps["threads"].values()

Everything hangs on file descriptors of this process: however it ends, the kernel detaches and frees all of it.
"""

from hangwatch.kernel.bpf.elf import BadObject, Object, load_object
from hangwatch.kernel.bpf.maps import Map
from hangwatch.kernel.bpf.programs import Collector
from hangwatch.kernel.bpf.ring import Ring
from hangwatch.kernel.bpf.syscall import BpfError

__all__ = ["BadObject", "BpfError", "Collector", "Map", "Object", "Ring", "load_object"]
