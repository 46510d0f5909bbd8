import { Problem } from './problem.tsx'

/** Stands where an answer will: that it comes, or why it does not. */
export function Waiting({ error }: { error?: unknown }) {
  return error ? <Problem error={error} /> : <p className="quiet">Loading ...</p>
}
