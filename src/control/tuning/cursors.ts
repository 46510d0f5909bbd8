/** Pages of OpenAI's API begin behind a row that the client names. */
import { Problem } from '../../http/problem.ts'
import type { NounRow, Nouns } from '../store/nouns.ts'
import { cursorAt } from '../store/pages.ts'

/** Behind the row of this id, newest first unless said otherwise; rows that were deleted meanwhile are places, too. */
export async function cursorBehind<Row extends NounRow>(
  nouns: Nouns<Row>,
  project: string,
  id: string,
  descending = true,
): Promise<string> {
  const row = await nouns.get(id)
  if (row?.project_id !== project) throw noSuchPlace(id)
  return cursorAt(id, descending)
}

/** As for a cursor that a list never gave. */
export function noSuchPlace(id: string): Problem {
  return new Problem(400, 'invalid_value', `after: there is nothing with the id ${id.slice(0, 100)}.`, {
    param: 'after',
  })
}
