"""GPU kernels run lane by lane on a CPU: `metal` and `cuda`, both on the fibers of `emulators.simt`."""
