/**
 * Several processes that train one model on parts of every step: data parallel, with the optimizer's state sharded
 * (ZeRO-1, Rajbhandari et al. 2020). Each has all weights and gradients; moments only of its own parameters.
 *
 * The gradients of a step's A micro-batches are summed over a fixed binary tree: the sum of [0, A) is that of its first
 * half plus that of its second. With R ranks (a power of two that divides A), rank r computes the r-th of R equal parts,
 * which is a node of the tree, so that 1, 2 and 4 ranks add the same numbers in the same order.
 */
import { assert } from '../../base/assert.ts'
import { UserError } from '../../base/errors.ts'
import type { Batch } from '../batch.ts'
import type { Parameters } from '../parameters.ts'
import type { Snapshot } from '../snapshot.ts'

/** How processes reach one another. */
export interface Channel {
  readonly rank: number
  readonly size: number
  send(bytes: Uint8Array, to: number): Promise<void>
  receive(into: Uint8Array, from: number): Promise<void>
  broadcast(bytes: Uint8Array, root: number): Promise<void>
}

/** One process that is all there is. */
export const alone: Channel = {
  rank: 0,
  size: 1,
  send: () => Promise.reject(new Error('there is nobody to send to')),
  receive: () => Promise.reject(new Error('there is nobody to hear from')),
  broadcast: () => Promise.resolve(),
}

/** A sum over part of the micro-batches. */
interface Sum {
  /** All gradients, one parameter after another. */
  gradients: Float32Array
  loss: number
}

/** Sums that one of `size` processes has at the same time: one a level of its part of the tree, and one that it hears. */
export function sumsOf(accumulate: number, size: number): number {
  const levels = Math.ceil(Math.log2(accumulate / size)) + 1
  return size > 1 ? Math.max(2, levels) : levels
}

/** Throws a UserError where a step's micro-batches cannot be shared among so many. */
export function checkTeam(size: number, accumulate: number): void {
  const isPower = (size & (size - 1)) === 0
  if (isPower && accumulate % size === 0) return
  throw new UserError(`${size} processes cannot share the ${accumulate} micro-batches of a step equally.`, {
    failure: 'usage',
    fix: 'Start 1, 2, 4, 8 ... processes, and give accumulate a multiple of that.',
  })
}

export class Team {
  readonly rank: number
  readonly size: number
  readonly #channel: Channel
  readonly #parameters: Parameters
  readonly #owners: readonly number[]
  /** Memory of sums, by level of the tree; made when it is first asked for. */
  readonly #sums: Float32Array[] = []

  constructor(channel: Channel, parameters: Parameters) {
    this.#channel = channel
    this.#parameters = parameters
    this.rank = channel.rank
    this.size = channel.size
    this.#owners = ownersOf(
      parameters.all.map(({ weight }) => weight.size),
      channel.size,
    )
    parameters.keepMoments((index) => this.#owners[index] === channel.rank)
  }

  /**
   * The step's gradients, summed into the parameters' on every rank; `run` adds one micro-batch's. Returns the loss.
   */
  async sum(batches: readonly Batch[], run: (batch: Batch) => Promise<number>): Promise<number> {
    const share = batches.length / this.size
    assert(Number.isInteger(share), 'every rank has an equal share')
    const total = await this.#sumOf(batches, this.rank * share, (this.rank + 1) * share, run, 0)
    for (let distance = 1; distance < this.size; distance *= 2) {
      if (this.rank % (2 * distance) !== 0) {
        await this.#send(total, this.rank - distance)
        break
      }
      add(total, await this.#receive(this.rank + distance))
    }
    const loss = Float64Array.of(total.loss)
    await this.#channel.broadcast(bytesOf(loss), 0)
    await this.#channel.broadcast(bytesOf(total.gradients), 0)
    this.#write(total.gradients)
    return loss[0]!
  }

  async #sumOf(
    batches: readonly Batch[],
    from: number,
    to: number,
    run: (batch: Batch) => Promise<number>,
    level: number,
  ): Promise<Sum> {
    if (to - from === 1) {
      this.#parameters.clearGradients()
      const loss = await run(batches[from]!)
      return { gradients: this.#read(this.#memoryOf(level)), loss }
    }
    const middle = from + Math.floor((to - from) / 2)
    const first = await this.#sumOf(batches, from, middle, run, level)
    add(first, await this.#sumOf(batches, middle, to, run, level + 1))
    return first
  }

  /** The one of level 0 holds this process's sum until the step's end. */
  #memoryOf(level: number): Float32Array {
    return (this.#sums[level] ??= new Float32Array(this.#parameters.count))
  }

  /** After the update: every rank gets the weights that others own. */
  async shareWeights(): Promise<void> {
    if (this.size === 1) return
    for (const [index, { weight }] of this.#parameters.all.entries()) {
      const owner = this.#owners[index]!
      const values = this.#memoryOf(0).subarray(0, weight.size)
      if (owner === this.rank) weight.read(values)
      await this.#channel.broadcast(bytesOf(values), owner)
      if (owner !== this.rank) weight.write(values)
    }
  }

  /** Every rank takes part; rank 0 has all moments in its copy then. */
  async gather(snapshot: Snapshot): Promise<void> {
    for (const [index, owner] of this.#owners.entries()) {
      if (owner === 0) continue
      for (const values of snapshot.momentsOf(index)) {
        if (this.rank === owner) await this.#channel.send(bytesOf(values), 0)
        else if (this.rank === 0) await this.#channel.receive(bytesOf(values), owner)
      }
    }
  }

  /** Fills `values`, of which each rank has its own and zeros, with those of all; exact, as nothing is added but zeros. */
  async share(values: Float64Array): Promise<void> {
    if (this.size === 1) return
    if (this.rank > 0) await this.#channel.send(bytesOf(values), 0)
    else {
      const theirs = new Float64Array(values.length)
      for (let rank = 1; rank < this.size; rank++) {
        await this.#channel.receive(bytesOf(theirs), rank)
        for (let i = 0; i < values.length; i++) values[i]! += theirs[i]!
      }
    }
    await this.#channel.broadcast(bytesOf(values), 0)
  }

  /** Whether any rank says yes; all get the same answer, and none before all have asked. */
  async any(mine: boolean): Promise<boolean> {
    if (this.size === 1) return mine
    const flag = Uint8Array.of(Number(mine))
    const theirs = Uint8Array.of(0)
    if (this.rank > 0) await this.#channel.send(flag, 0)
    else
      for (let rank = 1; rank < this.size; rank++) {
        await this.#channel.receive(theirs, rank)
        flag[0]! |= theirs[0]!
      }
    await this.#channel.broadcast(flag, 0)
    return flag[0] === 1
  }

  async #send({ gradients, loss }: Sum, to: number): Promise<void> {
    await this.#channel.send(bytesOf(Float64Array.of(loss)), to)
    await this.#channel.send(bytesOf(gradients), to)
  }

  async #receive(from: number): Promise<Sum> {
    const loss = new Float64Array(1)
    const gradients = this.#memoryOf(1)
    await this.#channel.receive(bytesOf(loss), from)
    await this.#channel.receive(bytesOf(gradients), from)
    return { gradients, loss: loss[0]! }
  }

  #read(out: Float32Array): Float32Array {
    let offset = 0
    for (const { gradient } of this.#parameters.all) {
      gradient.read(out.subarray(offset, offset + gradient.size))
      offset += gradient.size
    }
    return out
  }

  #write(values: Float32Array): void {
    let offset = 0
    for (const { gradient } of this.#parameters.all) {
      gradient.write(values.subarray(offset, offset + gradient.size))
      offset += gradient.size
    }
  }
}

function add(sum: Sum, part: Sum): void {
  const { gradients } = sum
  // Rounded to a float after each addition, as hardware adds floats.
  for (let i = 0; i < gradients.length; i++) gradients[i]! += part.gradients[i]!
  sum.loss += part.loss
}

/** The rank of each parameter: the largest first, each to whom has least. */
export function ownersOf(sizes: readonly number[], ranks: number): number[] {
  const load = new Array<number>(ranks).fill(0)
  const owners = new Array<number>(sizes.length).fill(0)
  const largestFirst = sizes.map((size, index) => ({ size, index }))
  largestFirst.sort((a, b) => b.size - a.size || a.index - b.index)
  for (const { size, index } of largestFirst) {
    const rank = load.indexOf(Math.min(...load))
    owners[index] = rank
    load[rank]! += size
  }
  return owners
}

function bytesOf({ buffer, byteOffset, byteLength }: Float32Array | Float64Array): Uint8Array {
  return new Uint8Array(buffer, byteOffset, byteLength)
}
