/**
 * An iteration as a GPU computes it: in turns of few shapes. Every new mix of lengths would be a new graph, which costs
 * its building and, the next time, its capture: 10 to 49 ms where computing it takes 2 to 8 (0.5B on an H200). Padding
 * to these shapes costs less than a tenth of that, as a GPU computes a few rows more in the same time.
 */
import type { IterationBatch, IterationOutput, SequenceWork } from './executor.ts'

/** Sequences of one turn, padded to equally many tokens; `outputs` are theirs among the iteration's. */
interface Turn {
  sequences: readonly SequenceWork[]
  outputs: readonly number[]
}

/** Tokens of a turn of several sequences, padding included: from here on a turn of its own costs little beside them. */
const turnTokensMax = 512
/** Past up to here shares turns; from there on, only with pasts of less than four times the length. */
const shortPast = 1024

/** The next number that is a power of two or three times one: at most a third is padding. */
export function roundedUp(count: number): number {
  const power = 2 ** Math.ceil(Math.log2(Math.max(1, count)))
  return power >= 4 && count <= (power * 3) / 4 ? (power * 3) / 4 : power
}

/** The last turn has the most outputs: the others' are read before it begins. */
export function turnsOf(sequences: readonly SequenceWork[], spareBlock: number): Turn[] {
  const groups: number[][] = []
  const open = new Map<string, number[]>()
  const outputs: number[] = []
  let count = 0
  for (const [i, { start, tokens, outputs: own }] of sequences.entries()) {
    const width = roundedUp(tokens.length)
    const past = Math.max(0, Math.ceil(Math.log2((start + tokens.length) / shortPast) / 2))
    // One token each: together, however many they are.
    const most = width === 1 ? Number.POSITIVE_INFINITY : Math.max(1, Math.floor(turnTokensMax / width))
    const key = `${width}@${past}`
    const alike = open.get(key)
    if (alike !== undefined && alike.length < most) alike.push(i)
    else {
      const begun = [i]
      open.set(key, begun)
      groups.push(begun)
    }
    outputs.push(count)
    count += own
  }
  return groups
    .map((members) => ({
      sequences: padded(
        members.map((i) => sequences[i]!),
        spareBlock,
      ),
      outputs: members.flatMap((i) =>
        Array.from({ length: sequences[i]!.outputs }, (_, output) => outputs[i]! + output),
      ),
    }))
    .sort((a, b) => a.outputs.length - b.outputs.length)
}

function padded(members: readonly SequenceWork[], spareBlock: number): SequenceWork[] {
  const width = roundedUp(members[0]!.tokens.length)
  const wide = members.map((member): SequenceWork => {
    const padding = width - member.tokens.length
    return padding === 0 ? member : { ...member, tokens: [...member.tokens, ...nothing(padding)], padding }
  })
  const nobody: SequenceWork = {
    ...{ blocks: [spareBlock], start: 0, tokens: nothing(width), outputs: 0, padding: width },
  }
  return [...wide, ...Array<SequenceWork>(roundedUp(members.length) - members.length).fill(nobody)]
}

const nothing = (count: number) => Array<number>(count).fill(0)

/** What one output of a turn was, where the next turn writes over it. */
interface Heard {
  logits: Float32Array | undefined
  states: Float32Array | undefined
  argmax: number
}

/** Computes the turns one after another and answers as one iteration. */
export async function inTurns(
  { sequences }: IterationBatch,
  spareBlock: number,
  execute: (sequences: readonly SequenceWork[]) => Promise<IterationOutput>,
): Promise<IterationOutput> {
  const turns = turnsOf(sequences, spareBlock)
  const wantsStates = sequences.flatMap(({ outputs, states }) =>
    Array<boolean>(outputs).fill(states === true),
  )
  const heard = new Map<number, Heard>()
  let computeMs = 0
  let last: IterationOutput | undefined
  for (const [turn, { sequences: works, outputs }] of turns.entries()) {
    last = await execute(works)
    computeMs += last.computeMs
    if (turn === turns.length - 1) break
    for (const [place, output] of outputs.entries()) {
      const isStates = wantsStates[output]!
      heard.set(output, {
        logits: isStates ? undefined : last.logits(place).slice(),
        states: isStates ? last.states(place) : undefined,
        argmax: isStates ? -1 : last.argmax(place),
      })
    }
  }
  const placeOf = new Map(turns.at(-1)!.outputs.map((output, place) => [output, place]))
  const place = (output: number) => placeOf.get(output) ?? Number.NaN
  return {
    computeMs,
    argmax: (output) => heard.get(output)?.argmax ?? last!.argmax(place(output)),
    logits: (output) => heard.get(output)?.logits ?? last!.logits(place(output)),
    states: (output) => heard.get(output)?.states ?? last!.states(place(output)),
  }
}
