/** Answers that the processes of a team wrote, each its own, to all of them. */
import { assert } from '../../base/assert.ts'
import type { Decoded } from '../evaluate/decode.ts'
import type { Team } from '../parallel/team.ts'

/** owners: the process of every answer, in order. `own`: this process's, in the same order. */
export async function sharedAnswers(
  team: Pick<Team, 'rank' | 'share'>,
  owners: readonly number[],
  own: readonly Decoded[],
  tokensMax: number,
): Promise<Decoded[]> {
  // Of each answer: how many tokens, how many log-probabilities, what ended it (0: nothing, else the token + 1); then both.
  const width = 3 + 2 * tokensMax
  const table = new Float64Array(owners.length * width)
  let next = 0
  for (const [index, owner] of owners.entries()) {
    if (owner !== team.rank) continue
    const { tokens, logProbabilities, ending } = own[next++]!
    assert(tokens.length <= tokensMax, 'an answer keeps its limit')
    const head = [tokens.length, logProbabilities.length, ending === undefined ? 0 : ending + 1]
    table.set([...head, ...tokens], index * width)
    table.set(logProbabilities, index * width + 3 + tokensMax)
  }
  await team.share(table)
  return owners.map((_, index): Decoded => {
    const row = table.subarray(index * width, (index + 1) * width)
    const [count, known, ending] = [row[0]!, row[1]!, row[2]!]
    return {
      tokens: [...row.subarray(3, 3 + count)],
      ending: ending === 0 ? undefined : ending - 1,
      logProbabilities: [...row.subarray(3 + tokensMax, 3 + tokensMax + known)],
    }
  })
}
