import { uniformAt } from '../base/random.ts'
import type { TextUnderConstraint } from '../constrain/constraint.ts'
import type { Effort } from '../constrain/mask-walk.ts'
import type { EngineRequest } from './request.ts'
import { bucketCount, bucketsPerUnit, expNegative, exponentMax, largest } from './softmax.ts'

/** What sampling has to remember of one request: everything else is a function of the logits. */
export class SamplingMemory {
  readonly request: EngineRequest
  readonly #generated = new Map<number, number>()
  readonly #seen = new Set<number>()
  readonly #bias: readonly (readonly [number, number])[]
  readonly #penalises: boolean
  readonly #text: TextUnderConstraint | undefined
  /** How many tokens were generated so far. */
  count = 0

  /** `text`: what holds the request to its constraint, before the first token. */
  constructor(request: EngineRequest, tokens: readonly number[], text?: TextUnderConstraint) {
    this.request = request
    this.#text = text
    const { logitBias, presencePenalty, frequencyPenalty, repetitionPenalty } = request.sampling
    this.#bias = Object.entries(logitBias ?? {}).map(([token, amount]) => [Number(token), amount] as const)
    this.#penalises = presencePenalty !== 0 || frequencyPenalty !== 0 || repetitionPenalty !== 1
    if (this.#penalises) for (const token of request.prompt) this.#seen.add(token)
    for (let i = request.prompt.length; i < tokens.length; i++) this.add(tokens[i]!)
  }

  add(token: number): void {
    this.count++
    if (this.#text !== undefined && !this.request.stopTokens.includes(token)) this.#text.take(token)
    if (!this.#penalises) return
    this.#seen.add(token)
    this.#generated.set(token, (this.#generated.get(token) ?? 0) + 1)
  }

  /** Whether the text is whole by its constraint: nothing may follow. */
  get complete(): boolean {
    return this.#text?.complete === true
  }

  /** Does what it can so that {@link change} is quick; true once it is. */
  prepare(effort: Effort): boolean {
    return this.#text === undefined || this.#text.complete || this.#text.prepareMask(effort)
  }

  /** Whether the next token depends on anything but the logits. */
  get changesLogits(): boolean {
    return this.#bias.length > 0 || this.#penalises || this.#masksStopTokens || this.#text !== undefined
  }

  change(logits: Float32Array): void {
    for (const [token, amount] of this.#bias) if (token < logits.length) logits[token]! += amount
    if (this.#penalises) this.#penalise(logits)
    if (this.#text !== undefined) this.#confine(logits, this.#text)
    else if (this.#masksStopTokens) {
      for (const token of this.request.stopTokens) if (token < logits.length) logits[token] = -Infinity
    }
  }

  #penalise(logits: Float32Array): void {
    const { presencePenalty, frequencyPenalty, repetitionPenalty } = this.request.sampling
    if (repetitionPenalty !== 1) {
      for (const token of this.#seen) {
        const logit = logits[token]!
        logits[token] = logit > 0 ? logit / repetitionPenalty : logit * repetitionPenalty
      }
    }
    for (const [token, times] of this.#generated) {
      logits[token]! -= presencePenalty + frequencyPenalty * times
    }
  }

  /** Only what the constraint allows, and ending tokens where it may end: below minTokens only if nothing else is left. */
  #confine(logits: Float32Array, text: TextUnderConstraint): void {
    const { stopTokens, ignoreEos } = this.request
    const { words, any } = text.mask()
    const ends = stopTokens.map((token) => logits[token]!)
    for (let token = 0; token < logits.length; token++) {
      if (((words[token >> 5] ?? 0) & (1 << (token & 31))) === 0) logits[token] = -Infinity
    }
    const mayEnd = text.mayEnd && !ignoreEos && !(this.#masksStopTokens && any)
    for (const [i, token] of stopTokens.entries()) {
      if (token < logits.length) logits[token] = mayEnd ? ends[i]! : -Infinity
    }
  }

  get #masksStopTokens(): boolean {
    const { ignoreEos, minTokens, stopTokens } = this.request
    return !ignoreEos && this.count < minTokens && stopTokens.length > 0
  }
}

/** One row of logits, as the device offers it: reading the row may cost more than asking for the best. */
export interface LogitsRow {
  logits(): Float32Array
  argmax(): number
}

/** Nearly all that is ever drawn lies within so much of the best. */
const nearDistance = 8

const noNumbers = "the largest logit is no finite number; the model's weights may be damaged"

/** Which tokens are kept: those in better buckets, and in the last bucket those up to (distance, id). */
interface Cut {
  bucket: number
  distance: number
  id: number
  /** Weight of all that is kept. */
  mass: number
}

/**
 * Chooses tokens. Temperature first, then top_k and min_p, then top_p over what they left; a pure function
 * of the row, the request and the tokens so far, so that company, preemption and restarts change nothing.
 *
 * Weights are exp(-distance) with distance = (best - logit) / temperature. One pass sorts all tokens into
 * buckets of distance; only a bucket in which a limit falls is ever sorted. Tokens below e^-40 of the best
 * are never drawn. No allocation of vocabulary size per token.
 */
export class Sampler {
  readonly #changed: Float32Array
  readonly #counts = new Int32Array(bucketCount)
  readonly #masses = new Float64Array(bucketCount)
  // Ids within nearDistance of the best, in order: the buckets that matter are searched here.
  readonly #near: Int32Array
  #nearCount = 0
  #values: Float32Array
  #most = 0
  #coldness = 1

  constructor(vocabularySize: number) {
    this.#changed = new Float32Array(vocabularySize)
    this.#near = new Int32Array(vocabularySize)
    this.#values = this.#changed
  }

  choose(row: LogitsRow, memory: SamplingMemory): number {
    const { sampling } = memory.request
    const { changesLogits } = memory
    if (sampling.temperature === 0 && !changesLogits) {
      const best = row.argmax()
      if (best < 0) throw new Error(noNumbers)
      return best
    }
    this.#values = row.logits()
    let best: number
    if (changesLogits) {
      this.#changed.set(this.#values)
      this.#values = this.#changed
      memory.change(this.#values)
      best = largest(this.#values)
    } else {
      best = row.argmax()
    }
    this.#most = this.#values[best] ?? Number.NaN
    if (!Number.isFinite(this.#most)) throw new Error(noNumbers)
    if (sampling.temperature === 0) return best
    this.#coldness = 1 / sampling.temperature
    this.#fillBuckets()
    const cut = this.#everything()
    if (sampling.topK > 0) this.#cutToCount(cut, sampling.topK)
    if (sampling.minP > 0) this.#cutToDistance(cut, -Math.log(sampling.minP))
    if (sampling.topP < 1) this.#cutToMass(cut, sampling.topP * cut.mass)
    return this.#draw(cut, uniformAt(sampling.seed, memory.count) * cut.mass, best)
  }

  #distance(token: number): number {
    return (this.#most - this.#values[token]!) * this.#coldness
  }

  #fillBuckets(): void {
    const counts = this.#counts.fill(0)
    const masses = this.#masses.fill(0)
    const values = this.#values
    const most = this.#most
    const coldness = this.#coldness
    const near = this.#near
    let nearCount = 0
    for (let token = 0; token < values.length; token++) {
      const distance = (most - values[token]!) * coldness
      if (!(distance < exponentMax)) continue
      const bucket = (distance * bucketsPerUnit) | 0
      counts[bucket]!++
      masses[bucket]! += expNegative(distance)
      if (distance < nearDistance) near[nearCount++] = token
    }
    this.#nearCount = nearCount
  }

  #everything(): Cut {
    let mass = 0
    for (let bucket = 0; bucket < bucketCount; bucket++) mass += this.#masses[bucket]!
    return { bucket: bucketCount, distance: 0, id: 0, mass }
  }

  #cutToCount(cut: Cut, count: number): void {
    let kept = 0
    let mass = 0
    for (let bucket = 0; bucket < bucketCount; bucket++) {
      const here = this.#counts[bucket]!
      if (kept + here > count) {
        this.#cutWithin(cut, bucket, mass, (_, i) => kept + i < count)
        return
      }
      kept += here
      mass += this.#masses[bucket]!
    }
  }

  #cutToDistance(cut: Cut, distance: number): void {
    const bucket = Math.floor(distance * bucketsPerUnit)
    if (bucket > cut.bucket || bucket >= bucketCount) return
    let mass = 0
    for (let b = 0; b < bucket; b++) mass += this.#masses[b]!
    this.#cutWithin(cut, bucket, mass, (token) => this.#distance(token) <= distance)
  }

  /** Keeps the fewest tokens, best first, that reach `mass`; one at least. */
  #cutToMass(cut: Cut, wanted: number): void {
    let mass = 0
    for (let bucket = 0; bucket < Math.min(cut.bucket + 1, bucketCount); bucket++) {
      if (this.#counts[bucket] === 0) continue
      const reached = mass + this.#masses[bucket]!
      if (reached >= wanted || bucket === cut.bucket) {
        let sum = mass
        this.#cutWithin(cut, bucket, mass, (token, i) => {
          const keeps = sum < wanted || (sum === 0 && i === 0)
          sum += expNegative(this.#distance(token))
          return keeps
        })
        return
      }
      mass = reached
    }
  }

  /** Keeps of `bucket`, and of nothing behind it, the tokens (best first) before the first that `keeps` rejects. */
  #cutWithin(cut: Cut, bucket: number, massBefore: number, keeps: (token: number, i: number) => boolean) {
    const members = this.#membersOf(bucket, cut)
    members.sort((a, b) => this.#distance(a) - this.#distance(b) || a - b)
    let mass = massBefore
    let last: number | undefined
    for (const [i, token] of members.entries()) {
      if (!keeps(token, i)) break
      mass += expNegative(this.#distance(token))
      last = token
    }
    cut.bucket = bucket
    cut.distance = last === undefined ? -1 : this.#distance(last)
    cut.id = last ?? -1
    cut.mass = mass
  }

  /** The tokens of one bucket that `cut` keeps, by id. */
  #membersOf(bucket: number, cut: Cut): number[] {
    const members: number[] = []
    if (bucket > cut.bucket) return members
    const isNear = bucket < nearDistance * bucketsPerUnit
    const candidates = isNear ? this.#nearCount : this.#values.length
    for (let i = 0; i < candidates; i++) {
      const token = isNear ? this.#near[i]! : i
      const distance = this.#distance(token)
      if (!(distance < exponentMax) || ((distance * bucketsPerUnit) | 0) !== bucket) continue
      const beyond = distance > cut.distance || (distance === cut.distance && token > cut.id)
      if (bucket < cut.bucket || !beyond) members.push(token)
    }
    return members
  }

  #draw(cut: Cut, target: number, best: number): number {
    let left = target
    for (let bucket = 0; bucket < Math.min(cut.bucket, bucketCount); bucket++) {
      if (left < this.#masses[bucket]!) return this.#drawWithin(bucket, cut, left, best)
      left -= this.#masses[bucket]!
    }
    return cut.bucket < bucketCount ? this.#drawWithin(cut.bucket, cut, left, best) : best
  }

  #drawWithin(bucket: number, cut: Cut, target: number, best: number): number {
    let left = target
    let last = best
    for (const token of this.#membersOf(bucket, cut)) {
      last = token
      left -= expNegative(this.#distance(token))
      if (left < 0) break
    }
    // Rounding may leave a crumb behind the last token: it is the last token's.
    return last
  }
}
