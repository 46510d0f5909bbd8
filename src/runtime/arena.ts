import { assert } from '../base/assert.ts'
import { type DType, dtypes } from '../base/dtype.ts'
import { UserError } from '../base/errors.ts'
import { type Ggml, loadGgml, type Pointer } from './ffi.ts'
import { contiguousStrides, ggmlLengths, type Shape, Tensor } from './tensor.ts'

/**
 * Native memory that belongs to a scope: `using arena = new Arena(n)` frees every tensor of it, even when
 * the scope throws. It holds the descriptions of at most `tensorsMax` tensors; `allocate` gives the leaves
 * among them memory on a device.
 */
export class Arena implements Disposable {
  readonly ggml: Ggml
  readonly context: Pointer
  readonly #buffers: Pointer[] = []
  #disposed = false

  constructor(tensorsMax: number, graphNodesMax = 0) {
    this.ggml = loadGgml()
    const graphBytes = graphNodesMax > 0 ? Number(this.ggml.graphOverheadCustom(graphNodesMax, false)) : 0
    const bytes = Number(this.ggml.tensorOverhead()) * tensorsMax + graphBytes + 1024
    this.context = this.ggml.init({ mem_size: bytes, mem_buffer: null, no_alloc: true })
    assert(this.context, 'ggml_init has memory for tensor descriptions')
  }

  /** A leaf tensor without memory yet. */
  leaf(dtype: DType, shape: Shape, name?: string): Tensor<'leaf'> {
    const pointer = this.ggml.newTensor4d(this.context, dtypes[dtype].ggml, ...ggmlLengths(shape))
    if (name !== undefined) this.ggml.setName(pointer, name.slice(-63))
    return new Tensor(this.ggml, pointer, dtype, shape, contiguousStrides(dtype, shape), 'leaf', [], {
      name: name ?? '',
    })
  }

  /** Gives every leaf of this arena that has none yet memory of this buffer type. */
  allocate(bufferType: Pointer): { bytes: number; buffer: Pointer } {
    const buffer = this.ggml.allocContext(this.context, bufferType)
    if (!buffer) {
      throw new UserError(
        `There is not enough memory on ${this.ggml.bufferTypeName(bufferType)} for the tensors.`,
        {
          fix: 'Use a smaller model, --quantize q8_0, a smaller --cache-tokens, or a machine with more memory.',
          mayPass: true,
        },
      )
    }
    this.#buffers.push(buffer)
    return { bytes: Number(this.ggml.bufferSize(buffer)), buffer }
  }

  dispose(): void {
    if (this.#disposed) return
    this.#disposed = true
    for (const buffer of this.#buffers) this.ggml.bufferFree(buffer)
    this.ggml.free(this.context)
  }

  [Symbol.dispose](): void {
    this.dispose()
  }

  get disposed(): boolean {
    return this.#disposed
  }
}
