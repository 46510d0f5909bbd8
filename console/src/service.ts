/** The service as the page asks it: the endpoints of src/api, with this browser's cookie. */
import { type QueryKey, useMutation, useQuery, useQueryClient } from '@tanstack/react-query'
import { type CallInput, Client } from '../../src/api/control/client.ts'
import type { AnswerOf, EndpointDefinition } from '../../src/api/control/endpoint.ts'
import { Refused } from '../../src/api/control/problem.ts'

export const service = new Client({ url: location.origin })

/** How often what may change by itself is asked again, in milliseconds. */
export const often = 1_000
export const seldom = 5_000

export function keyOf(endpoint: EndpointDefinition, input: { params?: unknown; query?: unknown }): QueryKey {
  return [endpoint.name, input.params ?? {}, input.query ?? {}]
}

/** The answer of an endpoint, kept; with `every` asked again while the page is looked at. */
export function useAnswer<D extends EndpointDefinition>(
  endpoint: D,
  input: CallInput<D>,
  { every, when = true }: { every?: number | false; when?: boolean } = {},
) {
  return useQuery<AnswerOf<D>>({
    queryKey: keyOf(endpoint, input as { params?: unknown }),
    queryFn: async ({ signal }) => await service.call(endpoint, { ...input, signal } as CallInput<D>),
    enabled: when,
    ...(every !== undefined && { refetchInterval: every }),
  })
}

/** Does something, and asks again for whatever `changes` names: the beginnings of endpoints' names (`jobs.`). */
export function useDeed<Input, Answer>(
  deed: (input: Input) => Promise<Answer>,
  changes: readonly string[],
  done?: (answer: Answer) => void,
) {
  const queries = useQueryClient()
  const askAgain = () =>
    queries.invalidateQueries({
      predicate: ({ queryKey: [name] }) =>
        typeof name === 'string' && changes.some((beginning) => name.startsWith(beginning)),
    })
  return useMutation({
    mutationFn: deed,
    onSuccess: async (answer) => {
      done?.(answer)
      await askAgain()
    },
    onError: async (error) => {
      // What it was decided on is no longer so.
      if (error instanceof Refused && error.code === 'conflict') await askAgain()
    },
  })
}

/** Whether asking again may help. */
export function mayHelp(error: unknown): boolean {
  return !(error instanceof Refused) || error.code === 'unavailable' || error.code === 'timed_out'
}

export function isSignedOut(error: unknown): boolean {
  return error instanceof Refused && error.code === 'unauthenticated'
}
