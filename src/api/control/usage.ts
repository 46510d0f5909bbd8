/** Usage, prices and budgets as they go over the wire. Costs are in whatever currency the operator counts in. */
import { z } from 'zod'
import { endpoint } from './endpoint.ts'

const name = z.string().min(1).max(200)
const amount = z.number().min(0).max(1e12)
export const usageDay = z.string().regex(/^\d{4}-\d\d-\d\d$/, 'Expected a day such as 2026-11-26 (UTC).')

export const modelPrice = z.strictObject({
  /** A deployment, `deployment:adapter`, or `*` for all without a price of their own. */
  model: name,
  inputPerMillion: amount,
  /** For input from the prefix cache; the input's price when absent. */
  cachedPerMillion: amount.optional(),
  outputPerMillion: amount,
})

export const devicePrice = z.strictObject({
  /** `cpu`, `h100` ..., or `*`. */
  device: name,
  perHour: amount,
})
export type DevicePrice = z.output<typeof devicePrice>

export const prices = z.strictObject({
  models: z.array(modelPrice).max(10_000),
  devices: z.array(devicePrice).max(1000),
})
export type Prices = z.output<typeof prices>

export const budgetInput = z
  .strictObject({
    /** Binds the key with this id; the whole project without it. */
    key: name.optional(),
    per: z.enum(['day', 'month']),
    tokens: z.int().positive().max(1e15).optional(),
    cost: z.number().positive().max(1e12).optional(),
    /** Of jobs and replicas together; of the whole project. */
    device_hours: z.number().positive().max(1e9).optional(),
  })
  .refine(
    ({ tokens, cost, device_hours }) =>
      tokens !== undefined || cost !== undefined || device_hours !== undefined,
    { message: 'A budget bounds tokens, cost, device_hours, or several of them.' },
  )
  .refine(({ key, device_hours }) => key === undefined || device_hours === undefined, {
    message: 'Devices are used by a project, not by one of its keys.',
  })
export type BudgetInput = z.output<typeof budgetInput>

export const budgetView = z.object({
  id: z.string(),
  key: z.string().nullable(),
  per: z.enum(['day', 'month']),
  tokens: z.number().nullable(),
  cost: z.number().nullable(),
  device_hours: z.number().nullable(),
})
export type BudgetView = z.output<typeof budgetView>

export const usageGroups = ['day', 'key', 'model'] as const

export const tokensUsage = z.object({
  day: z.string().optional(),
  key: z.string().optional(),
  model: z.string().optional(),
  requests: z.number(),
  prompt: z.number(),
  cached: z.number(),
  output: z.number(),
  cost: z.number(),
})
export type TokensUsage = z.output<typeof tokensUsage>

export const devicesUsage = z.object({
  day: z.string(),
  /** Id and name of the job or deployment. */
  subject: z.string(),
  name: z.string(),
  device: z.string(),
  hours: z.number(),
  cost: z.number(),
})
export type DevicesUsage = z.output<typeof devicesUsage>

export const usageView = z.object({
  tokens: z.array(tokensUsage),
  devices: z.array(devicesUsage),
  cost: z.number(),
})
export type UsageView = z.output<typeof usageView>

export const showUsage = endpoint({
  name: 'usage.show',
  method: 'GET',
  path: '/projects/:project/usage',
  summary: 'Tokens and device-hours of a project and what they cost at the prices of today.',
  access: 'usage:view',
  query: z.strictObject({
    /** Both inclusive; the current month without them. */
    from: usageDay.optional(),
    to: usageDay.optional(),
    key: name.optional(),
    model: name.optional(),
    /** Any of day, key, model, separated by commas. */
    by: z
      .string()
      .regex(/^(day|key|model)(,(day|key|model)){0,2}$/, 'Expected day, key, model, separated by commas.')
      .default('day,model'),
  }),
  answer: usageView,
})

export const showPrices = endpoint({
  name: 'prices.show',
  method: 'GET',
  path: '/prices',
  summary: 'What a million tokens and an hour of a device cost.',
  access: 'signed_in',
  answer: prices,
})

export const replacePrices = endpoint({
  name: 'prices.set',
  method: 'PUT',
  path: '/prices',
  summary: 'Set all prices; what is left out has none.',
  access: 'operator',
  body: prices,
  answer: prices,
})

export const listBudgets = endpoint({
  name: 'budgets.list',
  method: 'GET',
  path: '/projects/:project/budgets',
  summary: 'Bounds on what a project or a key may use in a day or a month.',
  access: 'usage:view',
  answer: z.object({ items: z.array(budgetView) }),
})

export const putBudget = endpoint({
  name: 'budgets.set',
  method: 'PUT',
  path: '/projects/:project/budgets',
  summary: 'Set the budget of the project, or of a key, for each day or month.',
  access: 'usage:edit',
  body: budgetInput,
  answer: budgetView,
})

export const removeBudget = endpoint({
  name: 'budgets.delete',
  method: 'DELETE',
  path: '/projects/:project/budgets/:budget',
  summary: 'Remove a budget.',
  access: 'usage:edit',
  answer: 'nothing',
})
