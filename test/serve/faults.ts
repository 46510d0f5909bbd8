import { BlockPool } from '../../src/serve/blocks.ts'
import { Replayer } from '../../src/serve/decision-log.ts'
import { Draft, type IterationPlan } from '../../src/serve/plan.ts'
import { PrefixCache } from '../../src/serve/prefix-cache.ts'
import { WaitingQueue } from '../../src/serve/queue.ts'
import { PrefixReuse } from '../../src/serve/reuse.ts'
import { Roster } from '../../src/serve/roster.ts'
import { RunningSet } from '../../src/serve/running.ts'
import { Sampler } from '../../src/serve/sampler.ts'
import { Scheduler } from '../../src/serve/scheduler.ts'
import { Sequence } from '../../src/serve/sequence.ts'
import { Stopwatch } from '../../src/serve/timing.ts'
import { Voice } from '../../src/serve/voice.ts'

// biome-ignore lint/suspicious/noExplicitAny: a fault reaches into classes in ways that their types forbid.
type Method = (this: any, ...args: any[]) => any
type Patch = (owner: object, name: string, wrap: (original: Method) => Method) => void

/** Mistakes that somebody could make in the scheduler, each as a change to one method. */
export const faults: Record<string, (patch: Patch) => void> = {
  'a cancelled request keeps its blocks': (patch) => {
    let cancelling = false
    patch(
      Scheduler.prototype,
      'cancel',
      (original) =>
        function (...args) {
          cancelling = true
          const ended = original.apply(this, args)
          cancelling = false
          return ended
        },
    )
    patch(
      PrefixCache.prototype,
      'release',
      (original) =>
        function (...args) {
          if (!cancelling) original.apply(this, args)
        },
    )
  },
  'a block is published before it is full': (patch) =>
    patch(
      PrefixCache.prototype,
      'publish',
      (original) =>
        function (user, computed) {
          original.call(this, user, computed + 1)
        },
    ),
  'a chunk begins one token late': (patch) =>
    patch(
      Draft.prototype,
      'add',
      (original) =>
        function (sequence, count) {
          original.call(this, sequence, count)
          const entry = this.sequences.at(-1)
          if (entry.sampledRows === 0 && entry.count > 1) entry.start++
        },
    ),
  'the last token of a chunk is booked without being computed': (patch) =>
    patch(
      PrefixReuse.prototype,
      'publish',
      (original) =>
        function (sequence) {
          if (sequence.owed > 1) sequence.computed++
          original.call(this, sequence)
        },
    ),
  'a shared block is not counted': (patch) =>
    patch(
      BlockPool.prototype,
      'share',
      (original) =>
        function (block) {
          if (this.references(block) === 0) original.call(this, block)
        },
    ),
  'a block is free when one of two holders gives it back': (patch) =>
    patch(
      BlockPool.prototype,
      'give',
      (original) =>
        function (block) {
          if (this.references(block) === 2) original.call(this, block)
          original.call(this, block)
        },
    ),
  'a block that somebody holds is handed out': (patch) => {
    let takes = 0
    patch(
      BlockPool.prototype,
      'take',
      (original) =>
        function () {
          const block = original.call(this)
          return ++takes % 5 === 0 && this.references(0) > 0 ? 0 : block
        },
    )
  },
  'an evicted block can still be found': (patch) =>
    patch(
      BlockPool.prototype,
      'take',
      (original) =>
        function () {
          this.onEvict = () => {}
          return original.call(this)
        },
    ),
  'blocks are given back first to last': (patch) =>
    patch(
      PrefixCache.prototype,
      'release',
      (original) =>
        function (user) {
          user.blocks.reverse()
          original.call(this, user)
        },
    ),
  'what was not computed yet can be found after a cancel': (patch) =>
    patch(
      Scheduler.prototype,
      'cancel',
      (original) =>
        function (id, ...rest) {
          const sequence = this.roster.get(id)
          if (sequence !== undefined) {
            const covered = sequence.blocks.length * this.shape.blockTokens
            this.cache.publish(sequence, Math.min(sequence.tokens.length, covered))
          }
          return original.call(this, id, ...rest)
        },
    ),
  'a producer that left is waited for': (patch) => patch(PrefixCache.prototype, 'withdraw', () => () => {}),
  'pins outlive their time': (patch) => patch(PrefixCache.prototype, 'expirePins', () => () => {}),
  'pins stop the last request that could run': (patch) =>
    patch(PrefixCache.prototype, 'dropPin', () => () => false),
  'a whole prompt is taken from the cache': (patch) =>
    patch(
      PrefixReuse.prototype,
      'limit',
      (original) =>
        function (sequence) {
          const limit = original.call(this, sequence)
          return limit === sequence.tokens.length - 1 ? limit + 1 : limit
        },
    ),
  'a request of one tenant is never called': (patch) =>
    patch(
      WaitingQueue.prototype,
      'peek',
      (original) =>
        function () {
          const next = original.call(this)
          return next?.tenant.name === 'tenant-1' ? undefined : next
        },
    ),
  'the queue serves the newest first': (patch) =>
    patch(
      WaitingQueue.prototype,
      'push',
      (original) =>
        function (sequence, nowMs) {
          if (sequence.arrival > 0) sequence.arrival = -sequence.arrival
          original.call(this, sequence, nowMs)
        },
    ),
  'an overdue request is forgotten': (patch) =>
    patch(
      WaitingQueue.prototype,
      'overdue',
      (original) =>
        function (nowMs) {
          for (const sequence of original.call(this, nowMs)) this.remove(sequence)
          return []
        },
    ),
  'the class of a running request changes behind the back of the batch': (patch) =>
    patch(
      Roster.prototype,
      'join',
      (original) =>
        function (sequence, nowMs) {
          original.call(this, sequence, nowMs)
          sequence.rank = 7 - sequence.rank
        },
    ),
  'the first gives way to the others': (patch) =>
    patch(
      RunningSet.prototype,
      'victimFor',
      (original) =>
        function (sequence) {
          const first = this.at(0)
          return first !== sequence && first.blocks.length > 0 ? first : original.call(this, sequence)
        },
    ),
  'a preempted request believes that it kept its blocks': (patch) =>
    patch(
      Roster.prototype,
      'preempt',
      (original) =>
        function (victim, ...rest) {
          const { computed } = victim
          original.call(this, victim, ...rest)
          victim.computed = computed
        },
    ),
  'a preempted request loses its place': (patch) =>
    patch(
      Roster.prototype,
      'preempt',
      (original) =>
        function (victim, ...rest) {
          original.call(this, victim, ...rest)
          this.queue.remove(victim)
        },
    ),
  'the budget is one token too large': (patch) =>
    patch(
      Draft.prototype,
      'leftTokens',
      (original) =>
        function () {
          return original.call(this) + 1
        },
    ),
  'one request too many runs': (patch) =>
    patch(
      RunningSet.prototype,
      'size',
      (original) =>
        function () {
          return Math.max(0, original.call(this) - 1)
        },
    ),
  'the budget depends on something that is not in the log': (patch) => {
    let calls = 0
    patch(
      Draft.prototype,
      'leftTokens',
      (original) =>
        function () {
          const left = original.call(this)
          return calls++ % 7 === 0 && left > 1 ? left - 1 : left
        },
    )
  },
  'what the draft model said is not in the log': (patch) =>
    patch(
      Replayer.prototype,
      'take',
      (original) =>
        function ({ proposals, ...rest }) {
          return original.call(this, rest)
        },
    ),
  'a guess is believed': (patch) =>
    patch(
      Voice.prototype,
      'speak',
      (original) =>
        function (entry, ...rest) {
          const speech = original.call(this, entry, ...rest)
          if (entry.guesses.length > 0) speech.tokens[0] = entry.guesses[0]
          return speech
        },
    ),
  'a rejected guess stays in the text': (patch) =>
    patch(
      Voice.prototype,
      'speak',
      (original) =>
        function (entry, ...rest) {
          const speech = original.call(this, entry, ...rest)
          if (speech.tokens.length <= entry.guesses.length) speech.tokens.unshift(entry.guesses[0])
          return speech
        },
    ),
  'sampling depends on how many were sampled before': (patch) => {
    let calls = 0
    patch(
      Sampler.prototype,
      'choose',
      (original) =>
        function (row, memory) {
          const count = memory.count
          if (memory.request.sampling.temperature > 0) memory.count += calls++ % 3
          const token = original.call(this, row, memory)
          memory.count = count
          return token
        },
    )
  },
  'a request that was cancelled during an iteration is heard of again': (patch) =>
    patch(
      Scheduler.prototype,
      'commit',
      (original) =>
        function (plan: IterationPlan, results, nowMs) {
          const gone = plan.sequences.filter(({ sequence }) => sequence.state === 'ended')
          const outcomes = original.call(this, plan, results, nowMs)
          for (const { sequence } of gone) outcomes.push({ sequence, tokens: [1] })
          return outcomes
        },
    ),
  'a broken iteration is not told': (patch) =>
    patch(
      Scheduler.prototype,
      'fail',
      (original) =>
        function (...args) {
          return original.apply(this, args).slice(1)
        },
    ),
  'time in preemption is not counted': (patch) =>
    patch(
      Stopwatch.prototype,
      'charge',
      (original) =>
        function (part, nowMs) {
          original.call(this, part, nowMs)
          if (part === 'preemptedMs') original.call(this, part, nowMs - 1)
        },
    ),
  'a cancelled request is told that it is complete': (patch) =>
    patch(
      Sequence.prototype,
      'finish',
      (original) =>
        function (reason) {
          return original.call(this, reason === 'aborted' ? 'length' : reason)
        },
    ),
}

/** Runs `work` with one fault in place and puts everything back. */
export async function withFault<T>(plant: (patch: Patch) => void, work: () => Promise<T>): Promise<T> {
  const undo: (() => void)[] = []
  plant((owner, name, wrap) => {
    const descriptor = Object.getOwnPropertyDescriptor(owner, name)!
    undo.push(() => Object.defineProperty(owner, name, descriptor))
    const faulty =
      descriptor.get === undefined ? { value: wrap(descriptor.value) } : { get: wrap(descriptor.get) }
    Object.defineProperty(owner, name, { ...descriptor, ...faulty })
  })
  try {
    return await work()
  } finally {
    for (const restore of undo.reverse()) restore()
  }
}
