/**
 * Where a job of a cluster on this machine has its files:
 *
 *     <id>/workspace/   the working directory: what was uploaded, and the job file of our trainer
 *     <id>/output/      checkpoints, reports, whatever should stay; the same for all attempts
 */
import { existsSync, mkdirSync, readdirSync, realpathSync, rmSync, statSync } from 'node:fs'
import { join, relative, resolve, sep } from 'node:path'
import { assert } from '../../base/assert.ts'
import { writeFileAtomic } from '../../base/files.ts'

export class JobFolders {
  readonly root: string

  constructor(root: string) {
    this.root = root
  }

  workspace(job: string): string {
    return join(this.#own(job), 'workspace')
  }

  output(job: string): string {
    return join(this.#own(job), 'output')
  }

  /** Makes both folders; done again, it changes nothing. */
  prepare(job: string): void {
    for (const folder of [this.workspace(job), this.output(job)])
      mkdirSync(folder, { recursive: true, mode: 0o700 })
  }

  /** Our trainer's job file: JSON is YAML. */
  writeJobFile(job: string, content: object): string {
    const path = join(this.workspace(job), '.ropeway-job.yml')
    writeFileAtomic(path, JSON.stringify(content, null, 2))
    return path
  }

  /** What is at a path below the output; undefined where there is nothing, or it would lead out of it. */
  artifact(job: string, path: string): string | undefined {
    const output = resolve(this.output(job))
    const found = resolve(output, path)
    if (!found.startsWith(`${output}${sep}`) || !existsSync(found)) return undefined
    // A link that the job made could lead anywhere.
    return realpathSync(found).startsWith(`${realpathSync(output)}${sep}`) ? found : undefined
  }

  artifacts(job: string, limit: number): { path: string; bytes: number; modified_at: number }[] {
    const output = this.output(job)
    if (!existsSync(output)) return []
    const found: { path: string; bytes: number; modified_at: number }[] = []
    for (const entry of readdirSync(output, { recursive: true, withFileTypes: true })) {
      // Links could lead anywhere.
      if (!entry.isFile() || found.length >= limit) continue
      const path = join(entry.parentPath, entry.name)
      const { size, mtimeMs } = statSync(path)
      found.push({ path: relative(output, path), bytes: size, modified_at: Math.floor(mtimeMs) })
    }
    return found.sort((a, b) => (a.path < b.path ? -1 : 1))
  }

  remove(job: string): void {
    rmSync(this.#own(job), { recursive: true, force: true })
  }

  #own(job: string): string {
    assert(/^job_[0-9a-z]+$/.test(job), `${job} is the id of a job`)
    return join(this.root, job)
  }
}
