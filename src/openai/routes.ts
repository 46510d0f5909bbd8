import type { Model, ModelList } from '../api/models.ts'
import type { Route } from '../http/router.ts'
import { chat } from './chat.ts'
import { completions } from './completions.ts'
import { dialectRoutes } from './dialects.ts'
import { embeddings } from './embeddings.ts'
import { type Endpoint, findModel, type ServedModel } from './endpoint.ts'

/** Every path of an engine's server. `state` says what its health is. */
export function routes(
  endpoint: Endpoint,
  state: () => 'ready' | 'draining' | 'unavailable',
): readonly Route[] {
  const chats = chat(endpoint)
  return [
    {
      method: 'GET',
      path: '/health',
      open: true,
      handle: async (exchange) => exchange.json(state() === 'ready' ? 200 : 503, { status: state() }),
    },
    {
      method: 'GET',
      path: '/metrics',
      handle: async (exchange) => {
        const { metrics, engine, limits } = endpoint
        exchange.text(200, metrics.contentType, await metrics.render(engine, limits.gaugesMs))
      },
    },
    {
      method: 'GET',
      path: '/v1/models',
      handle: async (exchange) => {
        const { models, engine } = endpoint
        const adapters = engine.adapters?.list().map(({ name }) => findModel(endpoint, name)) ?? []
        const list: ModelList = { object: 'list', data: [...models, ...adapters].map(describe) }
        exchange.json(200, list)
      },
    },
    {
      method: 'GET',
      path: '/v1/models/:id',
      handle: async (exchange) => exchange.json(200, describe(findModel(endpoint, exchange.parameters.id!))),
    },
    { method: 'POST', path: '/v1/completions', handle: completions(endpoint) },
    { method: 'POST', path: '/v1/chat/completions', handle: chats },
    ...dialectRoutes(endpoint, chats),
    { method: 'POST', path: '/v1/embeddings', handle: embeddings(endpoint) },
  ]
}

function describe({ id, created }: ServedModel): Model {
  return { id, object: 'model', created, owned_by: 'ropeway' }
}
