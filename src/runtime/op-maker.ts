/** How operations are made: one ggml node each, with the record that the trainer walks backwards. */
import { assert } from '../base/assert.ts'
import { type DType, dtypes } from '../base/dtype.ts'
import type { Arena } from './arena.ts'
import type { CustomOpPointer, Pointer } from './ffi.ts'
import { elementwiseKinds, type KernelOp, type KernelParams } from './kernel-ops.ts'
import type { KernelContext } from './kernels.ts'
import type { OpAttributes, OpName } from './op-attributes.ts'
import { contiguousStrides, ggmlLengths, type Shape, Tensor } from './tensor.ts'

/** In which numbers products of two F32 matrices are multiplied; sums are F32 either way. */
export type Precision = 'f32' | 'bf16'

/** What the right side of our products may be stored as, besides F32 (native/frozen.h). */
const frozenFormats: ReadonlySet<DType> = new Set(['BF16', 'F16', 'Q8_0', 'Q4_0'])

/** Whether our products read weights of this format as they are stored. */
export function readsFrozenAs(dtype: DType): boolean {
  return frozenFormats.has(dtype)
}

/** Ops of ours that store their result in BF16 as well (native/numbers.h). */
const narrowing: ReadonlySet<KernelOp> = new Set<KernelOp>([
  ...(['matmul_bf16', 'causal_attention', 'causal_attention_back', 'norm', 'rope', 'packed'] as const),
  ...([
    'gelu',
    'gelu_back',
    'silu_mul',
    'silu_mul_back',
    'matmul_by_expert_bf16',
    'mix_experts_back',
  ] as const),
])

export class OpMaker {
  readonly arena: Arena
  /** How results that could be in BF16 were made. */
  readonly #makings = new Map<Pointer, (dtype: DType) => Tensor>()
  /** What ops of ours read in F32. */
  readonly #read = new Set<Pointer>()
  readonly #narrowed = new Map<Pointer, Tensor>()
  protected readonly kernels: KernelContext | undefined
  protected readonly precision: Precision

  /** With `kernels`, what they have is computed by our own code; without, by ggml. CPU only. */
  constructor(arena: Arena, kernels?: KernelContext, precision: Precision = 'f32') {
    this.arena = arena
    this.kernels = kernels
    this.precision = precision
  }

  /** True when a product reads transposed factors where they lie, so that nobody need copy them for it. */
  get readsTransposed(): boolean {
    return this.kernels !== undefined
  }

  /** Whether our products read a frozen weight as it is stored: nobody need decode it for them. */
  readsFrozen(weight: Tensor): boolean {
    return this.kernels !== undefined && weight.shape.length === 2 && readsFrozenAs(weight.dtype)
  }

  protected make<Op extends OpName>(
    op: Op,
    pointer: Pointer,
    shape: Shape,
    inputs: readonly Tensor[],
    attributes: OpAttributes[Op],
    dtype: DType = 'F32',
    strides: readonly number[] = contiguousStrides(dtype, shape),
  ): Tensor<Op> {
    return new Tensor(this.arena.ggml, pointer, dtype, shape, strides, op, inputs, attributes)
  }

  protected elementwise<Op extends 'add' | 'sub' | 'mul' | 'div'>(op: Op, a: Tensor, b: Tensor): Tensor<Op> {
    assert(broadcasts(b.shape, a.shape), `${op}: ${b.shape} repeats into ${a.shape}`)
    const pointer =
      this.ownElementwise(op, a, b) ?? this.arena.ggml[op](this.arena.context, a.pointer, b.pointer)
    return this.make(op, pointer, a.shape, [a, b], {}, a.dtype)
  }

  /** a op b by our kernels, or with `into` in the memory of a; undefined where ggml has to. */
  protected ownElementwise(op: keyof typeof elementwiseKinds, a: Tensor, b: Tensor, into = false) {
    const wide = b.shape.at(-1) === a.shape.at(-1) && b.strides.at(-1) === 4
    const floats = a.dtype === 'F32' && b.dtype === 'F32'
    if (!floats || !a.contiguous || !(wide || b.shape.at(-1) === 1)) return undefined
    const params = { kind: elementwiseKinds[op], into: into ? 1 : 0 }
    return this.kernelOp('elementwise', params, into ? [4] : a.shape, [a, b])
  }

  protected unary<Op extends 'sqr' | 'sqrt' | 'log' | 'exp' | 'sigmoid' | 'softplus' | 'silu' | 'tanh'>(
    op: Op,
    x: Tensor,
  ): Tensor<Op> {
    return this.make(
      op,
      this.arena.ggml[op](this.arena.context, x.pointer),
      x.shape,
      [x],
      {} as OpAttributes[Op],
    )
  }

  /** One of our kernels as a node; undefined where there are none. */
  protected kernelOp<Op extends KernelOp>(
    op: Op,
    params: KernelParams<Op>,
    shape: Shape,
    inputs: readonly Tensor[],
    result: DType = 'F32',
  ): Pointer | undefined {
    const { kernels } = this
    if (kernels === undefined) return undefined
    const make = (dtype: DType) => {
      const { fn, userdata } = kernels.call(op, params)
      return this.custom(op, fn, dtype, shape, inputs, userdata)
    }
    const { pointer } = make(result)
    for (const input of inputs) this.#read.add(input.pointer)
    if (this.precision === 'bf16' && narrowing.has(op)) this.#makings.set(pointer, make)
    return pointer
  }

  /** One of our kernels as a node, for what is only asked for where they are. */
  protected own<Op extends KernelOp>(
    op: Op,
    params: KernelParams<Op>,
    shape: Shape,
    inputs: readonly Tensor[],
    result: DType = 'F32',
  ): Pointer {
    const pointer = this.kernelOp(op, params, shape, inputs, result)
    assert(pointer !== undefined, `${op} is asked for where kernels are`)
    return pointer
  }

  /**
   * x as products in bfloat16 read it: made again in BF16 by the op that made it, which rounds as they would; in F32 it
   * is then nobody's, and is never computed. x itself where that cannot be, or where others read it in F32.
   */
  protected narrowed(x: Tensor): Tensor {
    const known = this.#narrowed.get(x.pointer)
    if (known !== undefined) return known
    const make = this.#makings.get(x.pointer)
    if (make === undefined || this.#read.has(x.pointer)) return x
    const made = make('BF16')
    this.#narrowed.set(x.pointer, made)
    return made
  }

  /** A native kernel as a node: it runs in the device's own threads. CPU only. */
  custom(
    name: string,
    kernel: CustomOpPointer,
    dtype: DType,
    shape: Shape,
    inputs: readonly Tensor[],
    userdata?: Pointer,
  ): Tensor<'custom'> {
    const { ggml, context } = this.arena
    const pointers = BigUint64Array.from(inputs, (input) => input.pointer)
    const pointer = ggml.custom4d(
      context,
      dtypes[dtype].ggml,
      ...ggmlLengths(shape),
      pointers,
      inputs.length,
      kernel,
      // GGML_N_TASKS_MAX: as many tasks as there are threads.
      -1,
      userdata ?? null,
    )
    return this.make('custom', pointer, shape, inputs, { name }, dtype)
  }
}

/** True when `small` repeats a whole number of times into `large` in every dimension. */
export function broadcasts(small: Shape, large: Shape): boolean {
  if (small.length > large.length) return false
  return small.every((length, i) => large[large.length - small.length + i]! % length === 0)
}
