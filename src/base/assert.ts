/** A broken promise inside the program, never the user's fault: it names the promise and stops the work. */
export class AssertionError extends Error {
  override name = 'AssertionError'
}

/** Throws {@link AssertionError} with `promise` (a sentence that should have been true) unless `condition` holds. */
export function assert(condition: unknown, promise: string): asserts condition {
  if (!condition) throw new AssertionError(promise)
}

/** Marks a branch that the types already rule out; the compiler complains when they no longer do. */
export function unreachable(value: never): never {
  throw new AssertionError(`unreachable value: ${String(value)}`)
}
