/** A device as its maker describes it. All figures are per device and published. */
export interface Accelerator {
  name: string
  memoryBytes: number
  /** Floating point operations a second, FP16 with FP32 sums, dense. */
  peakFlops: number
  memoryBytesPerSecond: number
  /** To the other devices of its node, in one direction. */
  linkBytesPerSecond: number
  /** To another node, in one direction. */
  networkBytesPerSecond: number
  devicesPerNode: number
}

/** NVIDIA's data sheets; the network is that of Azure's ND A100 v4 and ND H100 v5 machines (one NIC a device). */
export const accelerators = {
  'a100-40gb': {
    name: 'a100-40gb',
    memoryBytes: 40e9,
    peakFlops: 312e12,
    memoryBytesPerSecond: 1555e9,
    linkBytesPerSecond: 300e9,
    networkBytesPerSecond: 25e9,
    devicesPerNode: 8,
  },
  'a100-80gb': {
    name: 'a100-80gb',
    memoryBytes: 80e9,
    peakFlops: 312e12,
    memoryBytesPerSecond: 2039e9,
    linkBytesPerSecond: 300e9,
    networkBytesPerSecond: 25e9,
    devicesPerNode: 8,
  },
  'h100-80gb': {
    name: 'h100-80gb',
    memoryBytes: 80e9,
    peakFlops: 989e12,
    memoryBytesPerSecond: 3350e9,
    linkBytesPerSecond: 450e9,
    networkBytesPerSecond: 50e9,
    devicesPerNode: 8,
  },
} as const satisfies Record<string, Accelerator>

/** How much of the published peaks real programs get, and what a layer costs beside them. */
export interface Efficiencies {
  /** Share of the peak rate that large matrix products reach. */
  products: number
  /** Share of the peak rate of the products inside attention. */
  attention: number
  /** Share of the memory bandwidth when weights and cache are read. */
  memory: number
  /** Share of the link's bandwidth inside an all-reduce. */
  link: number
  /** One step of a ring all-reduce, beside its bytes; a ring of n takes 2 (n - 1) steps. */
  hopSeconds: number
  /** Launches and small kernels of one layer. */
  layerSeconds: number
  /** Handing activations to the next stage of a pipeline, beside their bytes. */
  sendSeconds: number
  /** Memory that weights and cache cannot have: workspace, communication buffers, fragments. */
  memoryReserve: number
}

/**
 * Not fitted to any figure of a scheduler: products, memory, link, hop and layer are the least squares over 80
 * latencies that NVIDIA publishes for its own library on A100-80GB (FasterTransformer, docs/gpt_guide.md: GPT
 * 20B, 89B, 175B, 530B, 1 to 24 devices), rounded. The others are set by hand: those latencies and our results
 * hardly depend on them. test/simulate/roofline.test.ts holds the model to 22 of the latencies.
 */
export const measuredEfficiencies: Efficiencies = {
  products: 0.74,
  attention: 0.3,
  memory: 0.69,
  link: 0.25,
  hopSeconds: 4.4e-6,
  layerSeconds: 69e-6,
  sendSeconds: 20e-6,
  memoryReserve: 0.1,
}
