/** What an expected failure means to a shell; the numbers are the process exit codes of the command line. */
export const exitCodes = {
  failed: 1,
  usage: 2,
  not_found: 3,
  auth: 4,
  unreachable: 5,
  conflict: 6,
  timed_out: 7,
  interrupted: 130,
} as const

export type Failure = keyof typeof exitCodes

const passing: readonly Failure[] = ['unreachable', 'timed_out', 'interrupted']

/**
 * A failure that a person can act on: bad input, a missing file, a full disk.
 *
 * `message` says what happened and why; `fix` says what to do. Anything thrown that is not a UserError
 * is a bug and is shown with its stack.
 */
export class UserError extends Error {
  override name = 'UserError'
  readonly failure: Failure
  readonly fix: string | undefined
  /** The same again may go well: others hold what was missing, or it is out of reach for now. */
  readonly mayPass: boolean

  constructor(
    message: string,
    options: { failure?: Failure; fix?: string; cause?: unknown; mayPass?: boolean } = {},
  ) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause })
    this.failure = options.failure ?? 'failed'
    this.fix = options.fix
    this.mayPass = options.mayPass ?? passing.includes(this.failure)
  }
}

/** The text of anything thrown, for messages that wrap another failure. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}
