/** What was made of what: dataset version -> job -> checkpoint -> model version -> deployment. */
import type { Store } from '../store/store.ts'

/** Something that was made, or that something was made of. */
export interface LineageNode {
  /** Its prefix says what it is: `version_` (of a dataset), `job_`, `checkpoint_`, `release_` (of a model) ... */
  readonly id: string
  /** As people know it: `dataset reviews@3`. */
  readonly label: string
}

export interface LineageEdge {
  readonly from: LineageNode
  readonly to: LineageNode
}

interface LineageRow {
  readonly project_id: string
  readonly from_id: string
  readonly from_label: string
  readonly to_id: string
  readonly to_label: string
  readonly at: number
}

interface Tables {
  lineage: LineageRow
}

/** In the transaction that makes `to`; saying it twice changes nothing. */
export async function recordLineage(store: Store, project: string, { from, to }: LineageEdge): Promise<void> {
  await store
    .db<Tables>()
    .insertInto('lineage')
    .values({
      project_id: project,
      from_id: from.id,
      from_label: from.label,
      to_id: to.id,
      to_label: to.label,
      at: store.clock.unixMs(),
    })
    .onConflict((conflict) => conflict.doNothing())
    .execute()
}

const stepsMax = 20
const edgesMax = 1000

/** All that `id` was made of, and all that was made of it: edges in the order of the ways that lead to them. */
export async function lineageOf(store: Store, project: string, id: string): Promise<LineageEdge[]> {
  const back = await walk(store, project, id, 'to_id', 'from_id')
  const forth = await walk(store, project, id, 'from_id', 'to_id')
  return [...back.reverse(), ...forth].map((row) => ({
    from: { id: row.from_id, label: row.from_label },
    to: { id: row.to_id, label: row.to_label },
  }))
}

async function walk(
  store: Store,
  project: string,
  start: string,
  here: 'from_id' | 'to_id',
  there: 'from_id' | 'to_id',
): Promise<LineageRow[]> {
  const found: LineageRow[] = []
  const seen = new Set([start])
  let ids = [start]
  for (let step = 0; step < stepsMax && ids.length > 0 && found.length < edgesMax; step++) {
    const query = store.db<Tables>().selectFrom('lineage').selectAll().where('project_id', '=', project)
    const rows = await query
      .where(here, 'in', ids)
      .orderBy('at')
      .orderBy(there)
      .limit(edgesMax - found.length)
      .execute()
    found.push(...rows)
    ids = [...new Set(rows.map((row) => row[there]))].filter((id) => !seen.has(id))
    for (const id of ids) seen.add(id)
  }
  return found
}
