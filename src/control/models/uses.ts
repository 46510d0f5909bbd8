import { UserError } from '../../base/errors.ts'

/** Something that needs a checkpoint right now. */
export interface Use {
  /** In words: `the deployment chat`. */
  readonly by: string
  readonly checkpoint: string
  /** The model as which it is used, by id; absent when the checkpoint itself was named. */
  readonly model?: string
}

/** All that is in use in a project. */
export type UsesIn = (project: string) => Promise<readonly Use[]>

const namedMax = 5

/** Throws a UserError that names who uses `what`; nothing when nobody does. */
export function refuseUsed(what: string, uses: readonly Use[]): void {
  const users = [...new Set(uses.map(({ by }) => by))]
  if (users.length === 0) return
  const more = users.length > namedMax ? ` and ${users.length - namedMax} more` : ''
  throw new UserError(`${what} is used by ${users.slice(0, namedMax).join(', ')}${more}.`, {
    failure: 'conflict',
    fix: 'Delete that first, or bring another version into it.',
  })
}
