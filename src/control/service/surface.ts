import type { FastifyInstance } from 'fastify'
import type { ServiceContext } from './context.ts'

/** Addresses with answers of another shape than the service's own, on the same server. */
export type Surface = (app: FastifyInstance, context: ServiceContext) => void
