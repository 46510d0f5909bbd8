/**
 * The number formats of tensors, by the names that GGUF and safetensors share.
 *
 * `block` is how many elements are encoded together and `bytes` what one such block occupies
 * (ggml's block layouts; GGUF specification, section "Tensor types").
 */
export const dtypes = {
  F32: { ggml: 0, block: 1, bytes: 4 },
  F16: { ggml: 1, block: 1, bytes: 2 },
  Q4_0: { ggml: 2, block: 32, bytes: 18 },
  Q4_1: { ggml: 3, block: 32, bytes: 20 },
  Q5_0: { ggml: 6, block: 32, bytes: 22 },
  Q5_1: { ggml: 7, block: 32, bytes: 24 },
  Q8_0: { ggml: 8, block: 32, bytes: 34 },
  Q2_K: { ggml: 10, block: 256, bytes: 84 },
  Q3_K: { ggml: 11, block: 256, bytes: 110 },
  Q4_K: { ggml: 12, block: 256, bytes: 144 },
  Q5_K: { ggml: 13, block: 256, bytes: 176 },
  Q6_K: { ggml: 14, block: 256, bytes: 210 },
  /** Only in safetensors, where it holds what is encoded otherwise; ggml has none. */
  U8: { ggml: -1, block: 1, bytes: 1 },
  I8: { ggml: 24, block: 1, bytes: 1 },
  I16: { ggml: 25, block: 1, bytes: 2 },
  I32: { ggml: 26, block: 1, bytes: 4 },
  I64: { ggml: 27, block: 1, bytes: 8 },
  F64: { ggml: 28, block: 1, bytes: 8 },
  BF16: { ggml: 30, block: 1, bytes: 2 },
  MXFP4: { ggml: 39, block: 32, bytes: 17 },
} as const

export type DType = keyof typeof dtypes

/** Bytes of `elements` numbers in a row of type `dtype`; rows of block types hold whole blocks only. */
export function bytesOf(dtype: DType, elements: number): number {
  const { block, bytes } = dtypes[dtype]
  return (elements / block) * bytes
}

/** The format with ggml's type number `id`, or undefined for one that Ropeway does not read. */
export function dtypeByGgmlId(id: number): DType | undefined {
  return (Object.keys(dtypes) as DType[]).find((name) => dtypes[name].ggml === id)
}
