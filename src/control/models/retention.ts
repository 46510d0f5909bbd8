import { type RetentionSpec, retentionSpec } from '../../api/control/retention.ts'
import { UserError } from '../../base/errors.ts'
import { ownValue } from '../../base/own.ts'
import { Nouns } from '../store/nouns.ts'
import type { Checkpoints } from './checkpoints.ts'
import type { CheckpointRow, ReleaseTables, RetentionRow } from './rows.ts'

const dayMs = 24 * 3_600_000
/** Rules, and rows read at once. */
const rowsMax = 500

/** Which of a job's checkpoints a rule lets go. `nowMs` and times of rows are Unix milliseconds. */
export function dispensable(
  rows: readonly CheckpointRow[],
  rule: RetentionSpec,
  nowMs: number,
): CheckpointRow[] {
  const newestFirst = [...rows].sort((a, b) => b.step - a.step)
  const best = rule.keep_best === undefined ? [] : bestOf(rows, rule.keep_best)
  return newestFirst.filter((row, index) => {
    if (index < rule.keep_last) return false
    if (rule.keep_every !== undefined && row.step % rule.keep_every === 0) return false
    if (rule.keep_days !== undefined && nowMs - row.created_at < rule.keep_days * dayMs) return false
    return !best.includes(row)
  })
}

function bestOf(
  rows: readonly CheckpointRow[],
  { metric, mode, count }: RetentionSpec['keep_best'] & object,
) {
  const measureOf = ({ status }: CheckpointRow) => ownValue(status.metrics, metric)
  const measured = rows.filter((row) => measureOf(row) !== undefined)
  const sign = mode === 'min' ? 1 : -1
  return measured.sort((a, b) => sign * (measureOf(a)! - measureOf(b)!) || b.step - a.step).slice(0, count)
}

export function matches(pattern: string, name: string): boolean {
  return pattern.endsWith('*') ? name.startsWith(pattern.slice(0, -1)) : name === pattern
}

/** Rules of projects about what stays of the checkpoints of their jobs, and the loop that keeps to them. */
export class Retention {
  readonly nouns: Nouns<RetentionRow>
  readonly #checkpoints: Checkpoints

  constructor(checkpoints: Checkpoints) {
    this.#checkpoints = checkpoints
    this.nouns = new Nouns<RetentionRow>(checkpoints.store, 'retention_rules', 'retention')
  }

  async set(project: string, name: string, given: unknown): Promise<RetentionRow> {
    const spec = retentionSpec.parse(given)
    const known = await this.nouns.named(project, name)
    const row =
      known === undefined
        ? await this.nouns.insert({ project_id: project, name, spec, status: {} })
        : await this.nouns.update(known, { spec })
    if (row !== undefined) return row
    throw new UserError(`The rule ${name} was changed by somebody else at the same time.`, {
      failure: 'conflict',
      fix: 'Try again.',
    })
  }

  /** Deletes, softly, what every rule that speaks of a job lets go; returns how many. Any server may, at any time. */
  async sweep(): Promise<number> {
    let count = 0
    const { rows: rules } = await this.nouns.list({ limit: rowsMax })
    for (const project of new Set(rules.map(({ project_id }) => project_id))) {
      const own = rules.filter(({ project_id }) => project_id === project)
      for (const [job, rows] of await this.#byJob(project)) {
        const name = rows[0]!.job_name ?? job
        const speaking = own.filter(({ spec }) => matches(spec.jobs, name))
        count += await this.#apply(rows, speaking)
      }
    }
    return count
  }

  /**
   * Deletes, softly, what the file of a job says that the job keeps no longer (`checkpoint: {keep}`): all but the
   * newest `keep` and that of step `best`. Leaves it to the project's rules where one speaks of the job.
   */
  async keepAsJobSays(
    project: string,
    job: { readonly id: string; readonly name: string },
    { keep, best }: { readonly keep: number; readonly best: number | undefined },
  ): Promise<number> {
    const { rows: rules } = await this.nouns.list({ project, limit: rowsMax })
    if (rules.some(({ spec }) => matches(spec.jobs, job.name))) return 0
    const rows = (await this.#byJob(project, job.id)).get(job.id) ?? []
    const newestFirst = [...rows].sort((a, b) => b.step - a.step)
    const letGo = newestFirst.slice(keep).filter(({ step }) => step !== best)
    return await this.#delete(
      letGo,
      `Its job keeps ${keep} and the best (checkpoint: keep). It can be restored for a day.`,
    )
  }

  async #apply(rows: CheckpointRow[], rules: readonly RetentionRow[]): Promise<number> {
    if (rules.length === 0) return 0
    const nowMs = this.#checkpoints.store.clock.unixMs()
    const letGo = rules.map(({ spec }) => new Set(dispensable(rows, spec, nowMs)))
    const names = rules.map(({ name }) => name).join(', ')
    return await this.#delete(
      rows.filter((row) => letGo.every((set) => set.has(row))),
      `No rule keeps it (${names}). It can be restored for a day.`,
    )
  }

  /** Those of a project that nothing uses; returns how many. */
  async #delete(rows: readonly CheckpointRow[], why: string): Promise<number> {
    if (rows.length === 0) return 0
    const used = await this.#released(rows)
    for (const { checkpoint } of await this.#checkpoints.usesIn(rows[0]!.project_id)) used.add(checkpoint)
    const unused = rows.filter(({ id }) => !used.has(id))
    for (const row of unused) await this.#checkpoints.delete(row, why)
    return unused.length
  }

  async #released(rows: readonly CheckpointRow[]): Promise<Set<string>> {
    const db = this.#checkpoints.store.db<ReleaseTables>()
    const ids = rows.map(({ id }) => id)
    const found: string[] = []
    for (let at = 0; at < ids.length; at += rowsMax) {
      const query = db.selectFrom('model_versions').select('checkpoint_id')
      const some = await query.where('checkpoint_id', 'in', ids.slice(at, at + rowsMax)).execute()
      found.push(...some.map(({ checkpoint_id }) => checkpoint_id))
    }
    return new Set(found)
  }

  /** Checkpoints of jobs, or of one. */
  async #byJob(project: string, job?: string): Promise<Map<string, CheckpointRow[]>> {
    const jobs = new Map<string, CheckpointRow[]>()
    for (let cursor: string | undefined; ; ) {
      const page = await this.#checkpoints.nouns.list({
        project,
        where: (is) => is.and([job === undefined ? is('job_id', 'is not', null) : is('job_id', '=', job)]),
        limit: rowsMax,
        ...(cursor !== undefined && { cursor }),
      })
      for (const row of page.rows) jobs.set(row.job_id!, [...(jobs.get(row.job_id!) ?? []), row])
      if (page.next === undefined) return jobs
      cursor = page.next
    }
  }
}
