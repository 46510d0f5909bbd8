import { Refused } from '../../../src/api/control/problem.ts'
import { messageOf, UserError } from '../../../src/base/errors.ts'

/** What went wrong, why, and what to do. */
export function Problem({ error }: { error: unknown }) {
  if (error === null || error === undefined) return null
  const fix = error instanceof Refused || error instanceof UserError ? error.fix : undefined
  return (
    <div className="problem" role="alert">
      <strong>{messageOf(error)}</strong>
      {fix !== undefined && <p>{fix}</p>}
    </div>
  )
}
