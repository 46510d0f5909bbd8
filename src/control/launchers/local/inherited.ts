/**
 * What a job sees of the server's environment: where programs and libraries are, by which kernels to compute and where they
 * are kept, and how to reach the network.
 * Everything else, the server's own secrets first of all, stays with the server.
 */
const passed =
  /^(PATH|HOME|USER|LOGNAME|SHELL|LANG|LANGUAGE|LC_\w+|TZ|TMPDIR|LD_LIBRARY_PATH|CUDA_\w+|NVIDIA_\w+|HIP_\w+|ROCM_\w+|SSL_CERT_\w+|https?_proxy|all_proxy|no_proxy|PIP_\w+|UV_\w+|PYTHONPATH|NODE_EXTRA_CA_CERTS|CXX|XDG_CACHE_HOME|ROPEWAY_KERNELS)$/i

export function passedOn(environment: NodeJS.ProcessEnv): Record<string, string> {
  return Object.fromEntries(
    Object.entries(environment).flatMap(([name, value]) =>
      value !== undefined && passed.test(name) ? [[name, value]] : [],
    ),
  )
}
