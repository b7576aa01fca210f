// axios: writes that carry an `intentId` go through the journal; everything else goes as before.

import axios, { AxiosError, AxiosHeaders, type AxiosAdapter, type AxiosInstance } from "axios";
import { idempotentFetch, type Common, type Table } from "semel";

declare module "axios" {
  interface AxiosRequestConfig {
    /** The own name of this user action, such as an order's number. */
    intentId?: string;
  }
}

/** An axios whose writes are safe to retry. Failures are AxiosErrors, with the outcome as their code. */
export function safeAxios(options: Common & { policy: Table }): AxiosInstance {
  const plain = axios.getAdapter(axios.defaults.adapter);
  const adapter: AxiosAdapter = async (config) => {
    if (config.intentId === undefined) return plain(config);
    const init = {
      method: config.method!.toUpperCase(),
      headers: AxiosHeaders.from(config.headers).toJSON() as Record<string, string>,
      body: config.data as BodyInit,
    };
    const result = await idempotentFetch(axios.getUri(config), init, { ...options, id: config.intentId });
    const { response, outcome, why } = result;
    const answer = response && {
      data: await response.text(),
      status: response.status,
      statusText: response.statusText,
      headers: new AxiosHeaders(Object.fromEntries(response.headers)),
      config,
      request: result,
    };
    if (result.happened && answer) return answer;
    throw new AxiosError(`${outcome}: ${why}`, outcome, config, result, answer);
  };
  return axios.create({ adapter });
}
