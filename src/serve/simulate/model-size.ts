/** What the time of a model depends on. */
export interface ModelSize {
  name: string
  layers: number
  /** H */
  hidden: number
  heads: number
  keyValueHeads: number
  feedForward: number
  /** Matrices of the feed-forward: 2 with GELU, 3 with a gate. */
  feedForwardMatrices: 2 | 3
  vocabulary: number
  contextMax: number
  /** Of weights and of the cache: 2 for FP16. */
  bytesPerNumber: number
}

function gpt3(name: string, layers: number, hidden: number): ModelSize {
  return {
    name,
    layers,
    hidden,
    heads: hidden / 128,
    keyValueHeads: hidden / 128,
    feedForward: 4 * hidden,
    feedForwardMatrices: 2,
    vocabulary: 51200,
    contextMax: 2048,
    bytesPerNumber: 2,
  }
}

/** The models of the OSDI 2022 evaluation (its table 1), and two of today for planning. */
export const modelSizes: Readonly<Record<string, ModelSize>> = {
  '13b': gpt3('13b', 40, 5120),
  '101b': gpt3('101b', 80, 10240),
  '175b': gpt3('175b', 96, 12288),
  '341b': gpt3('341b', 120, 15360),
  'llama-8b': {
    name: 'llama-8b',
    layers: 32,
    hidden: 4096,
    heads: 32,
    keyValueHeads: 8,
    feedForward: 14336,
    feedForwardMatrices: 3,
    vocabulary: 128256,
    contextMax: 131072,
    bytesPerNumber: 2,
  },
  'llama-70b': {
    name: 'llama-70b',
    layers: 80,
    hidden: 8192,
    heads: 64,
    keyValueHeads: 8,
    feedForward: 28672,
    feedForwardMatrices: 3,
    vocabulary: 128256,
    contextMax: 131072,
    bytesPerNumber: 2,
  },
}

/** Parameters of the matrices that every token passes. */
export function layerParameters(model: ModelSize): number {
  const { layers, hidden, heads, keyValueHeads, feedForward, feedForwardMatrices } = model
  const keyValueWidth = (hidden / heads) * keyValueHeads
  return (
    layers * (2 * hidden * hidden + 2 * hidden * keyValueWidth + feedForwardMatrices * hidden * feedForward)
  )
}

export function headParameters({ vocabulary, hidden }: ModelSize): number {
  return vocabulary * hidden
}

/** Bytes that one token's keys and values take over all layers. */
export function cacheBytesPerToken({
  layers,
  hidden,
  heads,
  keyValueHeads,
  bytesPerNumber,
}: ModelSize): number {
  return 2 * layers * (hidden / heads) * keyValueHeads * bytesPerNumber
}
