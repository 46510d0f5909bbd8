import { Problem, type ProblemBody } from './problem.ts'

/** Says what one endpoint answers in the words of another. */
export interface Rewording {
  /** The body of an answer that comes at once. */
  whole(answer: object): object
  chunk(chunk: object): readonly NamedEvent[]
  /** The last events of a stream that went well, and of one that broke off. */
  done(): readonly NamedEvent[]
  failed(problem: ProblemBody): readonly NamedEvent[]
}

export interface NamedEvent {
  readonly event: string
  readonly data: object
}

/** An endpoint that another answers for. */
export interface Dialect {
  /** The body of a refusal. */
  refusal(problem: ProblemBody, status: number): object
  /** What its body calls a field of the endpoint that answers. */
  field(param: string): string
}

/** How an exchange was asked where another endpoint answers; body and answer once the other is asked. */
export interface AskedOtherwise {
  readonly dialect: Dialect
  /** That the other endpoint is asked with. */
  readonly body?: unknown
  readonly answer?: Rewording
}

/** The body of a refusal as whoever asked knows it, by the names of the fields that they gave. */
export function refusalFor({ dialect, answer }: AskedOtherwise, problem: Problem): object {
  const { param, status, code, message } = problem
  // Until the other endpoint is asked, fields are called as they were given.
  if (param === null || answer === undefined) return dialect.refusal(problem.body, status)
  const field = dialect.field(param)
  const text = message.startsWith(`${param}: `) ? field + message.slice(param.length) : message
  return dialect.refusal(new Problem(status, code, text, { param: field }).body, status)
}
