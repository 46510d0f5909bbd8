import { Problem, type ProblemBody } from './problem.ts'

/** Says what one endpoint answers in the words of another. */
export interface Rewording {
  /** The body of an answer that comes at once. */
  whole(answer: object): object
  chunk(chunk: object): readonly NamedEvent[]
  /** The last events of a stream that went well, and of one that broke off. */
  done(): readonly NamedEvent[]
  failed(problem: ProblemBody): readonly NamedEvent[]
  /** The body of a refusal. */
  refusal(problem: ProblemBody, status: number): object
  /** What the asked body calls a field of the endpoint that answers. */
  field(param: string): string
}

/** How an exchange is worded of which nothing is known but how it is refused. */
export function refusedAs(refusal: Rewording['refusal']): Rewording {
  return {
    whole: (answer) => answer,
    chunk: () => [],
    done: () => [],
    failed: () => [],
    refusal,
    field: (param) => param,
  }
}

export interface NamedEvent {
  readonly event: string
  readonly data: object
}

/** The problem with the field that it is about as the asked body calls it. */
export function reworded(problem: Problem, rewording: Rewording | undefined): Problem {
  const { param, status, code, message, headers } = problem
  if (rewording === undefined || param === null) return problem
  const field = rewording.field(param)
  const text = message.startsWith(`${param}: `) ? field + message.slice(param.length) : message
  return new Problem(status, code, text, { param: field, headers: { ...headers } })
}
